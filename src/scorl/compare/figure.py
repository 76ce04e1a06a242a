"""The comparison as a figure in the manner of the paper's: bars, flips, curves, edits, and the shift of attempts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from scorl.compare.jobs import Run
from scorl.compare.panels import WIDTH, draw_bars, draw_histograms
from scorl.compare.results import ArmResult, Comparison
from scorl.metrics import Interval, edit_ratio
from scorl.report.chart import Series, draw_chart
from scorl.report.svg import Drawing, arrange
from scorl.report.trajectories import attempts_of, gather_trajectories

__all__ = ["draw_figure"]

EDITS = 2000
"""Training trajectories at the end of a run that the histograms are made of."""
CURVES = ("single_turn", "multi_turn", "no_stage_one", "no_bonus", "score")
"""Arms of the curves where there are more than can be told apart."""
EDITED = ("base", "star", "pair_sft", "multi_turn", "score")
"""Arms of the histograms."""
SIZE = (WIDTH, 340)
"""Pixels of the curves."""


def draw_figure(comparison: Comparison, runs: Sequence[Run]) -> Drawing:
    """Up to six panels; those that nothing is there for are left out. Curves and edits are of each arm's first seed."""
    first: dict[str, Run] = {}
    for run in runs:
        if run.done:
            first.setdefault(run.arm.name, run)
    panels = [
        [_draw_accuracies(comparison.rows), _draw_flips(comparison.rows)],
        _draw_training(list(first.values())),
        [_draw_edits([first[name] for name in EDITED if name in first]), _draw_shift(comparison.rows)],
    ]
    there = [[panel for panel in row if panel] for row in panels]
    return arrange("The methods beside each other", [row for row in there if row])


def _draw_accuracies(rows: Sequence[ArmResult]) -> Drawing | None:
    figures = {row.arm.label: _pick(row, "accuracy_t1", "accuracy_t2") for row in rows}
    return draw_bars("Accuracy, %", ("attempt 1", "attempt 2"), figures)


def _draw_flips(rows: Sequence[ArmResult]) -> Drawing | None:
    figures = {row.arm.label: _pick(row, "incorrect_to_correct", "correct_to_incorrect") for row in rows}
    return draw_bars("Flips, % of all problems", ("wrong, then right", "right, then wrong"), figures)


def _draw_shift(rows: Sequence[ArmResult]) -> Drawing | None:
    figures = {row.arm.label: (row.fixed.get("fix_rate"), *_pick(row, "fix_rate")) for row in rows if row.fixed}
    return draw_bars("Wrong first attempts that are corrected, %", ("the base's first attempts", "its own"), figures)


def _pick(row: ArmResult, *names: str) -> tuple[Interval | None, ...]:
    return tuple(row.metrics.get(name) for name in names)


def _draw_training(runs: Sequence[Run]) -> list[Drawing | None]:
    """Accuracies and answer changes of the training samples over steps."""
    sampled = {run: [line for line in run.files.steps() if line.get("accuracy_t1") is not None] for run in runs}
    curved = [run for run, steps in sampled.items() if steps]
    if len(curved) > 8:
        curved = [run for run in curved if run.arm.name in CURVES]

    def series(key: str, dotted: bool = False) -> list[Series]:
        return [
            Series(
                run.arm.label,
                [(step["step"], step.get(key)) for step in sampled[run]],
                style=f"s{k}{' dotted' * dotted}",
            )
            for k, run in enumerate(curved, 1)
        ]

    accuracies = series("accuracy_t2") + series("accuracy_t1", dotted=True)
    return [
        draw_chart("Accuracy in training, %: attempt 1 dotted", accuracies, percent=True, raw=False, size=SIZE),
        draw_chart("Answers changed in training, %", series("answer_changed"), percent=True, raw=False, size=SIZE),
    ]


def _draw_edits(runs: Sequence[Run]) -> Drawing | None:
    """How much second attempts differ from first ones: at test, and at the end of training."""
    ratios = {run.arm.label: (_test_edits(run), _training_edits(run)) for run in runs}
    return draw_histograms("Edit-distance ratio of the two attempts", ("test", "training"), ratios)


def _test_edits(run: Run) -> list[float]:
    return list((run.evaluation or {}).get("edit_ratios", {}).values())


def _training_edits(run: Run) -> list[float]:
    latest = run.files.attempts(run.files.attempted_steps()[-20:])
    trajectories = (attempts_of(responses) for responses in gather_trajectories(latest))
    pairs = islice((attempts for attempts in trajectories if len(attempts) > 1), EDITS)
    return [edit_ratio(first["text"], second["text"]) for first, second, *_ in pairs]
