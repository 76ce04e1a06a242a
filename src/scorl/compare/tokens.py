"""The comparison at equal sampled tokens: at equal updates, who verifies samples more than who does not.

It takes evaluations on the way (`evaluation.eval_steps`): of each run the last one at which it had not sampled more
than the run that sampled least of all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import fmean
from typing import Any

from scorl.compare.arms import Arm
from scorl.compare.jobs import Run
from scorl.metrics import Interval, bootstrap_intervals
from scorl.objectives import OBJECTIVES

__all__ = ["EqualRow", "EqualTokens", "compare_at_equal_tokens"]


@dataclass(frozen=True)
class EqualRow:
    """An arm's figures at that point."""

    arm: Arm
    steps: float
    """Updates, on average over seeds."""
    tokens: float
    """Sampled tokens, likewise."""
    metrics: dict[str, Interval]


@dataclass(frozen=True)
class EqualTokens:
    """The arms that train, where none has sampled more than `budget` tokens."""

    budget: int
    rows: tuple[EqualRow, ...]
    left_out: tuple[Arm, ...] = ()
    """Arms that had sampled more before their first evaluation on the way, as those that collect first."""

    def as_dict(self) -> dict[str, Any]:
        """The table as JSON."""
        return {
            "budget": self.budget,
            "arms": {
                row.arm.name: {
                    "steps": row.steps,
                    "tokens": row.tokens,
                    "metrics": {name: interval.as_mean() for name, interval in row.metrics.items()},
                }
                for row in self.rows
            },
            "left_out": [arm.name for arm in self.left_out],
        }


def compare_at_equal_tokens(runs: Sequence[Run]) -> EqualTokens | None:
    """The finished runs at equal sampled tokens; None where fewer than two arms were evaluated on the way."""
    spent = {run: tokens for run in runs if (tokens := _sampled_tokens(run)) and tokens[-1]}
    budget = min((tokens[-1] for tokens in spent.values()), default=0)
    chosen = {run: _last_within(run, tokens, budget) for run, tokens in spent.items()}
    arms = dict.fromkeys(run.arm for run in runs if run.recipe.stages)
    there = [arm for arm in arms if all(chosen.get(run) for run in runs if run.arm == arm)]
    if len(there) < 2:
        return None
    rows = tuple(_row(arm, chosen, spent) for arm in there)
    return EqualTokens(budget, rows, tuple(arm for arm in arms if arm not in there))


def _sampled_tokens(run: Run) -> list[int]:
    """How many tokens the run had sampled after each update; what a stage collects counts at its first. Nothing where
    the record of a step is lost.
    """
    if run.files.find_gap(run.recipe.steps):
        return []
    return list(accumulate(map(_tokens_of_step, run.files.steps())))


def _tokens_of_step(step: dict[str, Any]) -> int:
    if "collected" in step:
        return int(step["collected"].get("tokens", 0))
    known = OBJECTIVES.get(step.get("objective", ""))
    return int(step.get("tokens", 0)) if known is None or known.source == "policy" else 0


def _last_within(run: Run, spent: Sequence[int], budget: int) -> dict[str, Any] | None:
    entries = (run.evaluation or {}).get("history", [])
    within = [entry for entry in entries if entry["step"] and spent[entry["step"] - 1] <= budget]
    return max(within, key=lambda entry: int(entry["step"]), default=None)


def _row(arm: Arm, chosen: dict[Run, dict[str, Any] | None], spent: dict[Run, list[int]]) -> EqualRow:
    of = {run: entry for run, entry in chosen.items() if run.arm == arm and entry}
    steps = [int(entry["step"]) for entry in of.values()]
    tokens = [spent[run][step - 1] for run, step in zip(of, steps, strict=True)]
    return EqualRow(arm, fmean(steps), fmean(tokens), bootstrap_intervals([run.tally(e) for run, e in of.items()]))
