"""The comparison as a figure in the manner of the paper's: bars, flips, curves, edits, and the shift of attempts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from scorl.compare.jobs import Run
from scorl.compare.results import Comparison, Row
from scorl.errors import UserError
from scorl.lines import read_attempts, read_lines
from scorl.metrics import edit_ratio
from scorl.report.show import trajectories

__all__ = ["draw"]

SMOOTH = 20
"""Steps of the moving mean in the curves."""
EDITS = 2000
"""Training trajectories at the end of a run that the histograms are made of."""
SHOWN = ("base", "star", "pair_sft", "multi_turn", "score")
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
    from matplotlib import pyplot

    first = {run.arm.name: run for run in reversed(runs) if run.done}
    figure, axes = pyplot.subplots(3, 2, figsize=(13, 13), constrained_layout=True)
    _bars(axes[0, 0], comparison.rows)
    _flips(axes[0, 1], comparison.rows)
    _curves(axes[1, 0], [run for run in first.values() if run.recipe.stages])
    _changes(axes[1, 1], [run for run in first.values() if run.recipe.stages])
    _edits(axes[2, 0], [first[name] for name in SHOWN if name in first])
    _shift(axes[2, 1], comparison.rows)
    draft = path.with_name(f".draft-{path.name}")
    figure.savefig(draft, dpi=110)
    draft.replace(path)
    pyplot.close(figure)


def _percent(row: Row, name: str, source: str = "metrics") -> tuple[float, list[float]]:
    """A figure in percent and how far its interval reaches below and above; 0 where it is undefined."""
    interval = getattr(row, source).get(name)
    if interval is None or interval.value is None:
        return 0.0, [0.0, 0.0]
    reach = [interval.value - interval.low, interval.high - interval.value]
    return 100 * interval.value, [max(0.0, 100 * r) for r in reach]


def _pairs(axis: Any, rows: Sequence[Row], names: Sequence[str], labels: Sequence[str]) -> None:
    """Horizontal bars of some metrics for each row, with intervals."""
    height = 0.8 / len(names)
    for k, (name, label) in enumerate(zip(names, labels, strict=True)):
        figures = [_percent(row, name) for row in rows]
        places = [i + (k - (len(names) - 1) / 2) * height for i in range(len(rows))]
        reach = [[r[0] for _, r in figures], [r[1] for _, r in figures]]
        axis.barh(places, [v for v, _ in figures], height, xerr=reach, label=label, error_kw={"lw": 0.8})
    axis.set_yticks(range(len(rows)), [row.arm.label for row in rows], fontsize=8)
    axis.invert_yaxis()
    axis.legend(fontsize=8)


def _bars(axis: Any, rows: Sequence[Row]) -> None:
    _pairs(axis, rows, ("accuracy_t1", "accuracy_t2"), ("attempt 1", "attempt 2"))
    axis.set_title("Accuracy, %")


def _flips(axis: Any, rows: Sequence[Row]) -> None:
    _pairs(axis, rows, ("incorrect_to_correct", "correct_to_incorrect"), ("wrong, then right", "right, then wrong"))
    axis.set_title("Flips, % of all problems")


def _shift(axis: Any, rows: Sequence[Row]) -> None:
    known = [row for row in rows if row.fixed]
    height = 0.4
    for k, (source, label) in enumerate((("fixed", "on the base's first attempts"), ("metrics", "on its own"))):
        values = [_percent(row, "fix_rate", source)[0] for row in known]
        axis.barh([i + (k - 0.5) * height for i in range(len(known))], values, height, label=label)
    axis.set_yticks(range(len(known)), [row.arm.label for row in known], fontsize=8)
    axis.invert_yaxis()
    if known:
        axis.legend(fontsize=8)
    axis.set_title("Wrong first attempts that are corrected, %")


def _curves(axis: Any, runs: Sequence[Run]) -> None:
    for k, run in enumerate(runs):
        for name, style in (("accuracy_t1", ":"), ("accuracy_t2", "-")):
            steps, values = _series(run, name)
            label = run.arm.label if style == "-" else None
            axis.plot(steps, values, style, color=f"C{k % 10}", lw=1.2, label=label)
    axis.set_title("Training accuracy, %: attempt 1 dotted, attempt 2 solid; first seed")
    axis.set_xlabel("step")
    axis.legend(fontsize=6, ncols=2)


def _changes(axis: Any, runs: Sequence[Run]) -> None:
    for k, run in enumerate(runs):
        axis.plot(*_series(run, "answer_changed"), color=f"C{k % 10}", lw=1.2, label=run.arm.label)
    axis.set_title("Answers changed while training, %; first seed")
    axis.set_xlabel("step")


def _series(run: Run, name: str) -> tuple[list[int], list[float]]:
    """The moving mean of a rate over steps, in percent; steps without it are left out."""
    known = [(x["step"], x[name]) for x in read_lines(run.directory / "steps.jsonl") if x.get(name) is not None]
    windows = [[v for _, v in known[max(0, i - SMOOTH + 1) : i + 1]] for i in range(len(known))]
    return [step for step, _ in known], [100 * sum(w) / len(w) for w in windows]


def _edits(axis: Any, runs: Sequence[Run]) -> None:
    """How much second attempts differ from first ones: at test, and (outlined) on the last training samples."""
    bins = [i / 20 for i in range(21)]
    for k, run in enumerate(runs):
        test = list((run.evaluation or {}).get("edit_ratios", {}).values())
        weights = [1 / len(test)] * len(test)
        axis.hist(test, bins, weights=weights, color=f"C{k}", alpha=0.35, label=f"{run.arm.label}, test")
        if train := _training_edits(run):
            axis.hist(train, bins, weights=[1 / len(train)] * len(train), histtype="step", color=f"C{k}", lw=1.2)
    axis.set_title("Edit-distance ratio of the two attempts: test filled, training outlined")
    axis.legend(fontsize=7)


def _training_edits(run: Run) -> list[float]:
    files = sorted((run.directory / "attempts").glob("*.jsonl"))[-20:]
    pairs = (t for file in files for t in trajectories(read_attempts(file)) if len(t) > 1)
    return [edit_ratio(first["text"], second["text"]) for first, second, *_ in islice(pairs, EDITS)]
