"""The comparison as a figure in the manner of the paper's: bars, flips, curves, edits, and the shift of attempts."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from scorl.compare.jobs import Run
from scorl.compare.results import Comparison, Row
from scorl.errors import UserError
from scorl.metrics import edit_ratio
from scorl.report.show import trajectories
from scorl.run.directory import RunDirectory
from scorl.run.files import replacing

__all__ = ["draw"]

SMOOTH = 20
"""Steps of the moving mean in the curves."""
EDITS = 2000
"""Training trajectories at the end of a run that the histograms are made of."""
CURVES = ("single_turn", "multi_turn", "no_stage_one", "no_bonus", "score")
"""Arms of the curves where there are more than can be told apart."""
EDITED = ("base", "star", "pair_sft", "multi_turn", "score")
"""Arms of the histograms."""


def draw(comparison: Comparison, runs: Sequence[Run], path: Path) -> None:
    """Write the figure; the file's ending decides its format.

    Raises:
        UserError: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
    except ImportError:
        raise UserError("the figure needs matplotlib: pip install 'scorl[figures]'") from None
    mpl.use("Agg")
    mpl.rcParams["svg.fonttype"] = "none"
    from matplotlib import pyplot

    first: dict[str, Run] = {}
    for run in runs:
        if run.done:
            first.setdefault(run.arm.name, run)
    curved = [run for run in first.values() if run.recipe.stages and _series(run, "accuracy_t1")[0]]
    if len(curved) > 8:
        curved = [run for run in curved if run.arm.name in CURVES]
    figure, axes = pyplot.subplots(3, 2, figsize=(13, 14), constrained_layout=True)
    _bars(axes[0, 0], comparison.rows)
    _flips(axes[0, 1], comparison.rows)
    _curves(axes[1, 0], curved)
    _changes(axes[1, 1], curved)
    _edits(axes[2, 0], [first[name] for name in EDITED if name in first])
    _shift(axes[2, 1], comparison.rows)
    with replacing(path) as draft:
        figure.savefig(draft, dpi=110)
    pyplot.close(figure)


def _percent(row: Row, name: str, source: str = "metrics") -> tuple[float, list[float]]:
    """A figure in percent and how far its interval reaches below and above; 0 where it is undefined."""
    interval = getattr(row, source).get(name)
    if interval is None or interval.value is None:
        return 0.0, [0.0, 0.0]
    reach = [interval.value - interval.low, interval.high - interval.value]
    return 100 * interval.value, [max(0.0, 100 * r) for r in reach]


def _pairs(axis: Any, rows: Sequence[Row], bars: Sequence[tuple[str, str, str]], title: str) -> None:
    """Two horizontal bars for each row, with intervals; a bar is its label, its metric, and where the row keeps it."""
    height = 0.8 / len(bars)
    for k, (label, name, source) in enumerate(bars):
        figures = [_percent(row, name, source) for row in rows]
        places = [i + (k - (len(bars) - 1) / 2) * height for i in range(len(rows))]
        reach = [[r[0] for _, r in figures], [r[1] for _, r in figures]]
        axis.barh(places, [v for v, _ in figures], height, xerr=reach, label=label, error_kw={"lw": 0.8})
    axis.set_yticks(range(len(rows)), [row.arm.label for row in rows], fontsize=8)
    axis.invert_yaxis()
    axis.set_title(title, pad=22)
    axis.legend(fontsize=8, ncols=len(bars), loc="lower center", bbox_to_anchor=(0.5, 0.99), frameon=False)


def _bars(axis: Any, rows: Sequence[Row]) -> None:
    bars = (("attempt 1", "accuracy_t1", "metrics"), ("attempt 2", "accuracy_t2", "metrics"))
    _pairs(axis, rows, bars, "Accuracy, %")


def _flips(axis: Any, rows: Sequence[Row]) -> None:
    bars = (
        ("wrong, then right", "incorrect_to_correct", "metrics"),
        ("right, then wrong", "correct_to_incorrect", "metrics"),
    )
    _pairs(axis, rows, bars, "Flips, % of all problems")


def _shift(axis: Any, rows: Sequence[Row]) -> None:
    bars = (("the base's first attempts", "fix_rate", "fixed"), ("its own", "fix_rate", "metrics"))
    _pairs(axis, [row for row in rows if row.fixed], bars, "Wrong first attempts that are corrected, %")


def _curves(axis: Any, runs: Sequence[Run]) -> None:
    for k, run in enumerate(runs):
        for name, style in (("accuracy_t1", ":"), ("accuracy_t2", "-")):
            steps, values = _series(run, name)
            label = run.arm.label if style == "-" else None
            axis.plot(steps, values, style, color=f"C{k % 10}", lw=1.2, label=label)
    axis.set_title("Accuracy of the training samples, %: attempt 1 dotted, attempt 2 solid; first seed")
    axis.set_xlabel("step")
    if runs:
        axis.legend(fontsize=8)


def _changes(axis: Any, runs: Sequence[Run]) -> None:
    for k, run in enumerate(runs):
        axis.plot(*_series(run, "answer_changed"), color=f"C{k % 10}", lw=1.2, label=run.arm.label)
    axis.set_title("Answers changed while training, %; first seed")
    axis.set_xlabel("step")


def _series(run: Run, name: str) -> tuple[list[int], list[float]]:
    """The moving mean of a rate over steps, in percent; steps without it are left out."""
    known = [(x["step"], x[name]) for x in RunDirectory(run.directory).steps() if x.get(name) is not None]
    windows = [[v for _, v in known[max(0, i - SMOOTH + 1) : i + 1]] for i in range(len(known))]
    return [step for step, _ in known], [100 * sum(w) / len(w) for w in windows]


def _edits(axis: Any, runs: Sequence[Run]) -> None:
    """How much second attempts differ from first ones, a line an arm: at test, and at the end of training."""
    bins = [i / 20 for i in range(21)]
    for k, run in enumerate(runs):
        test = list((run.evaluation or {}).get("edit_ratios", {}).values())
        floor = len(runs) - 1 - k
        axis.stairs(_shares(test, bins, floor), bins, baseline=floor, fill=True, color=f"C{k}", alpha=0.4)
        if train := _training_edits(run):
            axis.stairs(_shares(train, bins, floor), bins, baseline=floor, color=f"C{k}", lw=1.2)
    axis.set_yticks(range(len(runs)), [run.arm.label for run in reversed(runs)], fontsize=8)
    axis.set_title("Edit-distance ratio of the two attempts: test filled, training outlined")


def _shares(values: Sequence[float], bins: Sequence[float], floor: float) -> list[float]:
    """The histogram's heights on top of `floor`; a bin that holds 45% of the values reaches the next line."""
    counts = [0] * (len(bins) - 1)
    for value in values:
        counts[min(bisect(bins, value) - 1, len(counts) - 1)] += 1
    return [floor + count / max(len(values), 1) / 0.45 for count in counts]


def _training_edits(run: Run) -> list[float]:
    directory = RunDirectory(run.directory)
    pairs = (t for t in trajectories(directory.attempts(directory.attempted_steps()[-20:])) if len(t) > 1)
    return [edit_ratio(first["text"], second["text"]) for first, second, *_ in islice(pairs, EDITS)]
