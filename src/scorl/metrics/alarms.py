"""Alarms while a run trains: self-correction that collapses, first attempts that are thrown away for the bonus, rewards
that teach nothing, attempts that are all cut off or find the context used up, and updates that are skipped.

All are read off the lines of steps.jsonl, over a window of steps; a step's problems are new, so the steps of a window
are independent and their spread gives the intervals.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import fmean, stdev
from typing import Any

from scorl.settings import Sampling
from scorl.trajectory import Group

__all__ = [
    "ADVICE",
    "WINDOW",
    "Alarm",
    "describe_alarms",
    "find_alarms",
    "find_crowded",
    "share_out_of_context",
]

WINDOW = 20
"""Steps that a statistic is taken over."""
IDLE = 10
"""Steps after which rewards that are all the same, or attempts that are all cut off, are an alarm."""
FEW = 3
"""Steps that a run of fewer than `IDLE` must have sampled for these alarms, which are then raised at its end."""
CROWDED = 0.05
"""Share of attempts that may find the context used up."""
UNCHANGED = 0.05
"""Answer-change rate under which the second attempt counts as a copy."""
SURE = 3.0
"""Standard errors that a change must reach: alarms are looked for after every step."""

ADVICE = {
    "collapse": "the second attempt repeats the first and nothing pulls it away: give Stage I more steps or a larger "
    "beta_2, Stage II a larger alpha",
    "reward_hack": "first attempts are given up for the second: look for a reward of attempt 2 that reaches attempt 1 "
    "(gamma above 0), or take a smaller alpha or a larger beta_2",
    "no_reward": "rewards that tell no samples of a problem apart teach nothing: look at what is judged (`scorl show "
    "RUN`), the gold answers, max_tokens, and whether the model can solve such problems at all (`scorl evaluate`)",
    "truncated": "attempts that are cut off have no final answer: raise engine.max_tokens, or look for a model that "
    "ends its answers (its chat template and its end token: `scorl doctor MODEL`)",
    "out_of_context": "what stands before an attempt, and the attempt itself, do not fit the model's positions: take a "
    "smaller engine.max_tokens, shorter prompts, or a model with a longer context (`scorl doctor MODEL` says how long)",
    "skipped": "the loss or a gradient was no finite number: look at that step's attempts and rewards, and take "
    "bfloat16 or float32 in place of float16, or a smaller learning rate",
}
"""What to try, by kind."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """What seems to go wrong, and the figures that say so."""

    kind: str
    """One of `ADVICE`."""
    statistic: str


def find_alarms(lines: Sequence[Mapping[str, Any]]) -> list[Alarm]:
    """What the run looks like after its last line.

    Args:
        lines: of steps.jsonl, from the first on.
    """
    alarms = [
        _find_skip(lines),
        *_find_idle(lines),
        find_crowded(_share_over_window(lines)),
        *_find_in_second_attempts(lines),
    ]
    return [alarm for alarm in alarms if alarm]


def describe_alarms(lines: Sequence[Mapping[str, Any]], done: bool = False) -> list[str]:
    """A sentence for each kind of alarm that a run raised: when, on what, and what to try.

    Args:
        lines: of steps.jsonl.
        done: the run is at its end; if it was too short for the alarms of `IDLE` steps, they are looked for now.
    """
    sampled = sum(line.get("reward_t1") is not None for line in lines)
    late = [a for a in _find_idle(lines, sampled) if a] if done and FEW <= sampled < IDLE else []
    sentences = []
    for kind, advice in ADVICE.items():
        seen = [(line["step"], a["statistic"]) for line in lines for a in line.get("alarms") or () if a["kind"] == kind]
        seen += [(lines[-1]["step"], alarm.statistic) for alarm in late if alarm.kind == kind]
        if seen:
            sentences.append(
                f"{kind.replace('_', ' ')} in {len(seen)} steps from {seen[0][0]} to {seen[-1][0]}: {seen[-1][1]}. "
                f"To try: {advice}."
            )
    return sentences


def share_out_of_context(groups: Iterable[Group], sampling: Sampling) -> float:
    """The share of the attempts that ended by neither an end token nor the token limit: no position was left."""
    attempts = [numbered for group in groups for t in group for numbered in enumerate(t.attempts, 1)]
    return fmean(
        a.finish == "length" and a.tokens is not None and a.tokens < sampling.limit(number) for number, a in attempts
    )


def find_crowded(share: float | None) -> Alarm | None:
    """Attempts found no position left; said from the first step on, for no training makes a context longer."""
    if share is None or share < CROWDED:
        return None
    return Alarm("out_of_context", f"{100 * share:.0f}% of the attempts found the model's context used up")


def _find_skip(lines: Sequence[Mapping[str, Any]]) -> Alarm | None:
    """The last update was not applied; each time is said, for a run whose updates are skipped learns nothing."""
    if not lines[-1].get("skipped"):
        return None
    window = lines[-WINDOW:]
    count = sum(bool(line.get("skipped")) for line in window)
    odd = lines[-1].get("odd_gradients")
    whose = f"; not finite, the last time, were the gradients of {', '.join(odd)}" if odd else ""
    return Alarm(
        "skipped",
        f"{count} of the last {len(window)} updates were skipped, since loss or gradient was not finite{whose}",
    )


def _find_idle(lines: Sequence[Mapping[str, Any]], needed: int = IDLE) -> list[Alarm | None]:
    """For so many steps all rewards were 0 or all 1, or no advantage told samples apart, or all attempts were cut off;
    steps without attempts pass."""
    if lines[-1].get("reward_t1") is None or len(window := _newest(lines, "reward_t1", needed)) < needed:
        return []
    rewards = {value for line in window for name, value in line.items() if name.startswith("reward_t")} - {None}
    over = f"of the last {needed} steps"
    useless = [line.get("frac_reward_zero_std") for line in window]
    same = None
    # Means of 0 or 1 may be those of other rewards, -1 and 1 say, which then give some problems advantages.
    if rewards in ({0.0}, {1.0}) and all(share in (None, 1) for share in useless):
        same = f"every reward {over} was {min(rewards):g}"
    elif all(share == 1 for share in useless):
        same = f"every advantage was 0, at every problem {over}"
    return [
        Alarm("no_reward", same) if same else None,
        Alarm("truncated", f"every attempt {over} was cut off")
        if all(line["truncated"] == 1 for line in window)
        else None,
    ]


def _share_over_window(lines: Sequence[Mapping[str, Any]]) -> float | None:
    """Of attempts that found the context used up; None where the last step sampled none."""
    shares = [share for line in lines[-WINDOW:] if (share := line.get("out_of_context")) is not None]
    return None if lines[-1].get("out_of_context") is None else fmean(shares)


def _find_in_second_attempts(lines: Sequence[Mapping[str, Any]]) -> list[Alarm | None]:
    """Nothing before a window is full; lines without two sampled attempts are passed over."""
    if lines[-1].get("delta") is None or len(newest := _newest(lines, "delta", 2 * WINDOW)) < WINDOW:
        return []
    alarms = [_find_collapse(newest[-WINDOW:])]
    if len(newest) == 2 * WINDOW:
        first = islice((line for line in lines if line.get("delta") is not None), WINDOW)
        alarms.append(_find_reward_hack(list(first), newest[-WINDOW:]))
    return alarms


def _newest(lines: Sequence[Mapping[str, Any]], name: str, most: int) -> list[Mapping[str, Any]]:
    """The last lines that have a figure, in order; the many before them are not looked at, which is done every step."""
    return list(islice((line for line in reversed(lines) if line.get(name) is not None), most))[::-1]


def _find_collapse(window: Sequence[Mapping[str, Any]]) -> Alarm | None:
    """Hardly an answer changes, and Delta is within its interval of 0."""
    changed = fmean(line["answer_changed"] for line in window)
    delta, error = _mean(window, "delta")
    if changed >= UNCHANGED or abs(delta) > 1.96 * error + 1e-12:
        return None
    span = f"[{100 * (delta - 1.96 * error):+.1f}, {100 * (delta + 1.96 * error):+.1f}]"
    return Alarm(
        "collapse",
        f"{100 * changed:.1f}% of answers changed (below {100 * UNCHANGED:.0f}%) and Delta {100 * delta:+.1f} {span} "
        f"over the last {WINDOW} steps",
    )


def _find_reward_hack(early: Sequence[Mapping[str, Any]], late: Sequence[Mapping[str, Any]]) -> Alarm | None:
    """First attempts got worse while second ones got better."""
    first, second = (_change(early, late, f"accuracy_t{turn}") for turn in (1, 2))
    if first[1] > -SURE or second[1] < SURE:
        return None
    return Alarm(
        "reward_hack",
        f"@t1 {100 * first[0]:+.1f} (z {first[1]:.1f}) while @t2 {100 * second[0]:+.1f} (z {second[1]:+.1f}), "
        f"the last {WINDOW} steps against the first {WINDOW}",
    )


def _mean(window: Sequence[Mapping[str, Any]], name: str) -> tuple[float, float]:
    """Mean over steps and its standard error."""
    values = [line[name] for line in window]
    return fmean(values), stdev(values) / math.sqrt(len(values))


def _change(early: Sequence[Mapping[str, Any]], late: Sequence[Mapping[str, Any]], name: str) -> tuple[float, float]:
    """The change of a mean, and how many standard errors that is."""
    (before, e1), (after, e2) = _mean(early, name), _mean(late, name)
    error = math.hypot(e1, e2)
    return after - before, (after - before) / error if error else math.copysign(math.inf, after - before)
