"""Curves over steps, of training and evaluations, as plain data: {"title", "unit", "series": [{"name", "x", "y"}]}."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from scorl.report.trajectories import FLIPS as WORDS
from scorl.run.files import Record

__all__ = [
    "FLIPS",
    "KEPT",
    "find_alarm_steps",
    "find_stages",
    "gather_evaluation_curves",
    "gather_training_curves",
    "name_stage",
]

Panel = dict[str, Any]
"""A chart: its title, the unit of its values, and its series; `low` and `high` of a series are 95% intervals."""

ACCURACIES = {
    "attempt {}": "accuracy_t{}",
    "verification {}": "accuracy_v{}",
    "selective revision": "accuracy_selective",
}
FLIPS = {WORDS["fixed"]: "incorrect_to_correct", WORDS["broken"]: "correct_to_incorrect"}
KEPT = {"wrong ones fixed": "fix_rate", "right ones broken": "break_rate"}
CUT = {"cut at the token limit": "truncated", "out of context": "out_of_context"}
TOKENS = {"attempt {}": "tokens_t{}", "verification {}": "tokens_v{}", "critique {}": "tokens_c{}"}

TRAINING: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("Accuracy", "%", ACCURACIES),
    ("Delta(t1, t2)", "%", {"attempt 2 less attempt 1": "delta"}),
    ("Flips", "%", FLIPS),
    ("Answers changed", "%", {"changed": "answer_changed"}),
    ("KL to the reference", "nats per attempt", {name: key.replace("tokens", "kl") for name, key in TOKENS.items()}),
    ("Tokens per attempt", "tokens", TOKENS),
    ("Cut off", "%", CUT),
    ("Problems with every advantage 0", "%", {"problems": "frac_reward_zero_std"}),
    ("Loss", "", {"loss": "loss"}),
    ("Gradient norm", "", {"before clipping": "grad_norm"}),
    ("Learning rate", "", {"learning rate": "learning_rate"}),
    ("Tokens per step", "tokens", {"tokens": "tokens"}),
    ("Time per step", "seconds", {phase: f"seconds.{phase}" for phase in ("sample", "judge", "learn", "sync")}),
)
"""Charts of steps.jsonl: title, unit, and the keys by the names of their curves; {}: every number."""

HELD_OUT: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("Accuracy", "%", ACCURACIES),
    ("Delta(t1, t2)", "%", {"attempt 2 less attempt 1": "delta"}),
    ("Flips", "%", FLIPS | KEPT),
    ("Tokens per attempt", "tokens", TOKENS),
    ("Cut off", "%", CUT),
)
"""Charts of evaluation.json, likewise."""


def gather_training_curves(steps: Sequence[Record], lengths: Mapping[int, Mapping[str, float]]) -> list[Panel]:
    """A panel for everything that steps.jsonl holds values of.

    Args:
        steps: its lines, in order.
        lengths: by step the mean `tokens_t1`, ... of its recorded attempts.
    """
    flat = [{**_flatten(step), **lengths.get(step["step"], {})} for step in steps]
    there = {key: None for step in flat for key in step}
    recorded = {key for means in lengths.values() for key in means}
    with_attempts = [step for step in flat if step["step"] in lengths]  # the others would break a line at every point
    panels = []
    for title, unit, keys in TRAINING:
        series = [
            _make_series(name, unit, [(s["step"], s.get(key)) for s in (with_attempts if key in recorded else flat)])
            for name, key in _match_keys(keys, there)
        ]
        panels.append({"title": title, "unit": unit, "series": [one for one in series if one]})
    return [panel for panel in panels if panel["series"]]


def gather_evaluation_curves(split: str, latest: Record) -> list[Panel]:
    """A panel for each kind of metric over the evaluations of a split, with intervals."""
    history = latest.get("history", [latest])
    panels = []
    for title, unit, keys in HELD_OUT:
        series = [_make_evaluated(name, unit, history, key) for name, key in _match_keys(keys, latest["metrics"])]
        panels.append({"title": f"{title} on {split}", "unit": unit, "series": [one for one in series if one]})
    return [panel for panel in panels if panel["series"]]


def find_stages(steps: Sequence[Record]) -> list[tuple[int, str]]:
    """The first step of every stage and the stage's name."""
    changes = [b for a, b in pairwise(steps) if a["stage"] != b["stage"]]
    return [(step["step"], str(step["stage"])) for step in [*steps[:1], *changes]]


def name_stage(stages: Sequence[tuple[int, str]], step: int) -> str | None:
    """The stage of a step; None before the first."""
    return next((name for first, name in reversed(stages) if first <= step), None)


def find_alarm_steps(steps: Iterable[Record]) -> list[tuple[int, str, str]]:
    """(step, kind, statistic) of every alarm."""
    return [(step["step"], a["kind"], a["statistic"]) for step in steps for a in step.get("alarms") or ()]


def _flatten(step: Record) -> Record:
    return step | {f"seconds.{phase}": seconds for phase, seconds in (step.get("seconds") or {}).items()}


def _match_keys(keys: Mapping[str, str], there: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The (name, key) of those that are there, whichever numbers stand in place of {}."""
    for name, key in keys.items():
        pattern = re.compile(re.escape(key).replace(r"\{\}", r"(\d+)"))
        for one in there:
            if match := pattern.fullmatch(one):
                yield name.format(*match.groups()), one


def _make_evaluated(name: str, unit: str, history: Sequence[Record], key: str) -> Record | None:
    found = [(entry["step"], entry["metrics"][key]) for entry in history if key in entry["metrics"]]
    series = _make_series(name, unit, [(step, measured["value"]) for step, measured in found])
    if series:
        series |= {end: [_scale(measured[end], unit) for _, measured in found] for end in ("low", "high")}
    return series


def _make_series(name: str, unit: str, points: Sequence[tuple[int, Any]]) -> Record | None:
    """A series; None where it has no value."""
    ys = [_scale(y, unit) for _, y in points]
    return {"name": name, "x": [x for x, _ in points], "y": ys} if any(y is not None for y in ys) else None


def _scale(value: Any, unit: str) -> float | None:
    """A value as it is drawn, of five digits; None where there is no finite one, which breaks the line."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(f"{value * (100 if unit == '%' else 1):.5g}")
