"""How far second attempts go from first ones, and on which problems they flip, as plain data."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

from scorl.metrics import attempts_right
from scorl.report.packing import Packed, read_flips
from scorl.report.trajectories import FLIPS
from scorl.run.files import Record

__all__ = ["BINS", "gather_difficulty", "gather_edits"]

BINS = 20
"""Of an edit-distance histogram."""
LATEST = 50
"""Recorded training steps, from the newest on, that flips by difficulty are counted over."""
NUMBERS = re.compile(r"countdown-((?:\d+-)+)to-\d+")
SHARES = ("none", "up to a quarter", "up to a half", "up to three quarters", "most", "all")
"""Of a problem's first attempts that are right."""

Counts = dict[str, dict[str, int]]
"""By the label of a row how many trajectories are of each flip class."""


def gather_edits(evaluations: Mapping[str, Record]) -> list[Record]:
    """Histograms of the edit-distance ratios of the two attempts: of the first and of the last evaluation of a split.

    Each is {"split", "series": [{"step", "problems", "shares"}]}, shares in percent of problems, over equal bins of
    [0, 1].
    """
    found = []
    for split, latest in evaluations.items():
        history = latest.get("history", [latest])
        ends = [history[0]] if len(history) == 1 else [history[0], history[-1]]
        series = [
            {"step": entry["step"], "problems": len(ratios), "shares": _bin(ratios)}
            for entry in ends
            if (ratios := list((entry.get("edit_ratios") or {}).values()))
        ]
        if series:
            found.append({"split": split, "series": series})
    return found


def gather_difficulty(packed: Packed, evaluations: Mapping[str, Record]) -> list[Record]:
    """Flips by how hard the problems are, wherever the files tell: {"title", "note", "rows": [{"label", flip: count}]}.

    In training a problem is as hard as the first attempts of its group say; at an evaluation as those of the first
    evaluation do. Problems of countdown are also told apart by how many numbers they have.
    """
    training = _read_training(packed)
    tables = [_by_own_attempts(training), _by_numbers(training, "training")]
    for split, latest in evaluations.items():
        tables.append(_by_first_evaluation(split, latest))
        words = latest.get("outcomes") or {}
        flips = [(problem, flip) for problem, text in words.items() for flip in map(_flip, text.split()) if flip]
        tables.append(_by_numbers(flips, split))
    return [table for table in tables if table and len(table["rows"]) > 1]


def _bin(ratios: Sequence[float]) -> list[float]:
    counts = [0] * BINS
    for ratio in ratios:
        counts[min(int(ratio * BINS), BINS - 1)] += 1
    return [round(100 * count / len(ratios), 3) for count in counts]


Flipped = tuple[str, str]
"""A problem, and the flip class of a trajectory of it."""


def _read_training(packed: Packed) -> list[Flipped]:
    """(problem and step, flip) of the latest training trajectories."""
    rows = list(read_flips(packed))
    latest = set(sorted({step for step, *_ in rows})[-LATEST:])
    return [(f"{problem} {step}", flip) for step, problem, flip in rows if step in latest]


def _by_own_attempts(flips: Sequence[Flipped]) -> Record | None:
    groups: dict[str, list[str]] = {}
    for group, flip in flips:
        groups.setdefault(group, []).append(flip)
    rows = [(_name_share(of), flip) for of in groups.values() if len(of) > 1 for flip in of]
    return _tabulate(
        "Flips by the first attempts of the same problem, in training",
        f"The last {LATEST} recorded steps or fewer. A row is of the problems of which so many first attempts of the "
        "step's own samples are right.",
        rows,
        [f"right: {share}" for share in SHARES],
    )


def _by_first_evaluation(split: str, latest: Record) -> Record | None:
    history = latest.get("history", [latest])
    before = {problem: text.split() for problem, text in (history[0].get("outcomes") or {}).items()}
    if len(history) < 2:
        return None
    rows = [
        (_name_share([flip for flip in map(_flip, before[problem]) if flip]), flip)
        for problem, text in (latest.get("outcomes") or {}).items()
        if problem in before and any(map(_flip, before[problem]))
        for flip in map(_flip, text.split())
        if flip
    ]
    return _tabulate(
        f"Flips on {split} by the first attempts before training",
        f"The evaluation after {latest['step']} updates; a row is of the problems of which so many first attempts were "
        f"right at the evaluation after {history[0]['step']}.",
        rows,
        [f"right: {share}" for share in SHARES],
    )


def _by_numbers(flips: Iterable[Flipped], where: str) -> Record | None:
    """Of countdown, whose ids list the numbers."""
    rows = [(f"{match[1].count('-')} numbers", flip) for problem, flip in flips if (match := NUMBERS.match(problem))]
    names = sorted({label for label, _ in rows}, key=lambda label: int(label.split()[0]))
    return _tabulate(f"Flips by how many numbers there are, {where}", "", rows, names)


def _tabulate(title: str, note: str, rows: Iterable[tuple[str, str]], order: Sequence[str]) -> Record | None:
    counts: Counts = {label: dict.fromkeys(FLIPS, 0) for label in order}
    for label, flip in rows:
        counts[label][flip] += 1
    there = [{"label": label, **of} for label, of in counts.items() if any(of.values())]
    return {"title": title, "note": note, "rows": there} if there else None


def _name_share(flips: Sequence[str]) -> str:
    share = fmean(flip in ("right", "broken") for flip in flips)
    if share in (0, 1):
        return f"right: {'all' if share else 'none'}"
    return f"right: {SHARES[1 + int(4 * share - 1e-9)]}"


def _flip(word: str) -> str | None:
    """The flip class that a word of `outcomes` says; None for a single attempt."""
    first, *later = attempts_right(word)
    if not later:
        return None
    return {(0, 0): "wrong", (0, 1): "fixed", (1, 0): "broken", (1, 1): "right"}[first, later[0]]
