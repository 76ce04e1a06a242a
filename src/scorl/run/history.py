"""What is known of a run so far: its steps, its evaluations and what is left of them where it resumes, its loggers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any

from scorl.errors import UserError
from scorl.run.files import Record, check_is_file, read_all, read_json

__all__ = [
    "cut_evaluations",
    "find_fault",
    "find_gap",
    "has_metrics",
    "of_same_problems",
    "read_evaluations",
    "read_logger_runs",
    "read_steps",
]

WITHOUT_EVALUATIONS = "move it away, and the run does without"
WITHOUT_NAMES = "move it away, and the loggers begin others"


def read_steps(file: Path) -> list[Record]:
    """The records of the steps, in order; none where the file is not there.

    Raises:
        UserError: a line is none of a step, or it is no file.
    """
    check_is_file(file)
    try:
        records = read_all(file)
        for number, record in enumerate(records, 1):
            if fault := find_fault(record):
                raise UserError(f"{file}, line {number} {fault}")
    except UserError as error:
        raise UserError(f"{error}. Delete that line: the run resumes without it, and says so") from None
    return records


def find_fault(record: Record) -> str | None:
    """Why a record is none of a step, in words."""
    if not _has_step(record) or "stage" not in record:
        return f"says no `{'stage' if _has_step(record) else 'step'}`"
    for key, value in record.items():
        if not FITS.get(key, _is_figure if FIGURES.fullmatch(key) else _is_anything)(value):
            return f"is none of a step: its `{key}` is {value!r:.60}"
    for key, others in TOGETHER.items():
        lacking = next((other for other in others if record.get(other) is None), None)
        if lacking and record.get(key) is not None:
            return f"is none of a step: it has `{key}` and no `{lacking}`"
    return None


def _is_anything(value: Any) -> bool:
    return True


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_figure(value: Any) -> bool:
    return value is None or isinstance(value, (int, float))


def _has_figures(value: Any) -> bool:
    return value is None or (isinstance(value, dict) and all(map(_is_figure, value.values())))


def _has_numbers(value: Any) -> bool:
    return _has_figures(value) and None not in (value or {}).values()


def _has_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _has_alarms(value: Any) -> bool:
    return value is None or (
        isinstance(value, list)
        and all(isinstance(v, dict) and _is_text(v.get("kind")) and _is_text(v.get("statistic")) for v in value)
    )


FITS: dict[str, Callable[[Any], bool]] = {
    "stage": _is_text,
    "objective": _is_text,
    "adaptive": _has_figures,
    "collected": _has_figures,
    "odd_gradients": _has_texts,
    "seconds": _has_numbers,
    "alarms": _has_alarms,
}
"""What a step's record may have in these places, which older versions did not all write."""
FIGURES = re.compile(
    "(accuracy|delta|reward|kl|frac|incorrect|correct)_.*|delta|answer_changed|truncated|out_of_context|loss|grad_norm"
    "|learning_rate|logprob_gap|sync_gap|skipped|tokens"
)
"""The names of what is a number, or null."""
TOGETHER = {"reward_t1": ("truncated",), "delta": ("answer_changed", "accuracy_t1", "accuracy_t2")}
"""What alarms read, in the records of every version, where there is a figure."""


def find_gap(file: Path, steps: Sequence[Record], updates: int) -> str | None:
    """Whether the records of some of so many steps are lost, or stand there twice, in a sentence."""
    recorded, gaps = Counter(step["step"] for step in steps), []
    if missing := [step for step in range(updates) if step not in recorded]:
        gaps.append(f"lacks the lines of {len(missing)} steps, the first of them {missing[0]}")
    if repeated := [step for step in range(updates) if recorded[step] > 1]:
        gaps.append(f"has the lines of {len(repeated)} steps more than once, the first of them {repeated[0]}")
    return f"{file}: {'; '.join(gaps)}" if gaps else None


def read_evaluations(file: Path) -> dict[str, Any]:
    """The latest evaluation of each split, with the history of all; none where the file is not there.

    Raises:
        UserError: the file holds something else.
    """
    evaluations: dict[str, Any] = read_json(file, WITHOUT_EVALUATIONS)
    if not isinstance(evaluations, dict) or not all(map(_is_evaluation, evaluations.values())):
        raise UserError(f"{file} holds no evaluations (docs/run-directory.md): {WITHOUT_EVALUATIONS}")
    return evaluations


def cut_evaluations(evaluations: Mapping[str, Any], updates: int) -> dict[str, Any]:
    """Those after at most so many updates."""
    earlier = {split: _latest_until(updates, latest["history"]) for split, latest in evaluations.items()}
    return {split: latest for split, latest in earlier.items() if latest}


def of_same_problems(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two evaluations are about the same problems: by their ids and, where both say it, by the hash of their
    texts, which older versions did not write.
    """
    hashes = {e["problems_hash"] for e in (one, other) if "problems_hash" in e}
    return one.get("outcomes", {}).keys() == other.get("outcomes", {}).keys() and len(hashes) < 2


def _latest_until(updates: int, history: Sequence[Record]) -> Record | None:
    earlier = [entry for entry in history if entry["step"] <= updates]
    return {**earlier[-1], "history": earlier} if earlier else None


def read_logger_runs(file: Path) -> dict[str, str]:
    """What each logger calls the run; nothing where the file is not there.

    Raises:
        UserError: the file holds something else.
    """
    runs: dict[str, str] = read_json(file, WITHOUT_NAMES)
    if not isinstance(runs, dict) or not all(isinstance(run, str) for run in runs.values()):
        raise UserError(f"{file} holds no names of runs: {WITHOUT_NAMES}")
    return runs


def has_metrics(evaluation: Any) -> bool:
    """Whether it has metrics, each with its value and its limits."""
    metrics = evaluation.get("metrics") if isinstance(evaluation, dict) else None
    return isinstance(metrics, dict) and all(
        isinstance(metric, dict)
        and all(isinstance(metric.get(key, ""), (int, float, NoneType)) for key in ("value", "low", "high"))
        for metric in metrics.values()
    )


def _is_evaluation(latest: Any) -> bool:
    history = latest.get("history") if isinstance(latest, dict) else None
    return isinstance(history, list) and all(
        _has_step(entry)
        and has_metrics(entry)
        and _has_words(entry.get("outcomes", {}))
        and _has_numbers(entry.get("edit_ratios"))
        for entry in [latest, *history]
    )


def _has_words(outcomes: Any) -> bool:
    """Whether it says at least an attempt of each sample; see scorl.metrics.words."""
    return isinstance(outcomes, dict) and all(
        _is_text(text) and text and all({"0", "1"} & set(word) for word in text.split()) for text in outcomes.values()
    )


def _has_step(record: Any) -> bool:
    step = record.get("step") if isinstance(record, dict) else None
    return isinstance(step, int) and not isinstance(step, bool)
