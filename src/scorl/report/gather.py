"""Everything that a report shows of runs and folders, gathered from their files as plain data."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scorl.errors import UserError
from scorl.metrics import HEADLINES
from scorl.metrics.alarms import describe_alarms
from scorl.report.comparison import find_runs, read_comparison, read_scaling
from scorl.report.curves import find_alarm_steps, find_stages, gather_evaluation_curves, gather_training_curves
from scorl.report.distributions import gather_difficulty, gather_edits
from scorl.report.facts import describe_run
from scorl.report.packing import Packed, average_lengths, choose_files, count_bytes, pack_attempts
from scorl.report.table import Grid, tabulate_change, tabulate_evaluation
from scorl.run.directory import RunDirectory
from scorl.run.files import Record

__all__ = ["MEGABYTES", "Gathered", "RunData", "gather_report"]

MEGABYTES = 256
"""Of files of attempts that a report takes whole; of more it takes every second step, or third, ..."""


@dataclass(frozen=True)
class RunData:
    """A run as it is shown."""

    name: str
    facts: list[tuple[str, str]]
    alarms: list[str]
    """Sentences."""
    tables: list[dict[str, Any]]
    """{"title", "tiles", "grid"} of each split."""
    recipe: str
    charts: Record
    """What scripts draw: {"name", "stages", "alarms", "training", "held_out", "edits", "difficulty"}."""
    attempts: Packed


@dataclass(frozen=True)
class Gathered:
    """All that one report shows."""

    title: str
    runs: list[RunData]
    comparison: Record | None = None
    scaling: Record | None = None
    every: int = 1
    """Of every n-th step the attempts are there."""

    @property
    def nth(self) -> str:
        """`2nd`, as `every` is said."""
        teens = self.every % 100 in (11, 12, 13)
        return f"{self.every}{'th' if teens else {1: 'st', 2: 'nd', 3: 'rd'}.get(self.every % 10, 'th')}"


def gather_report(paths: Sequence[Path], megabytes: int = MEGABYTES) -> Gathered:
    """The data of run directories, or of folders of comparisons and scaling results.

    Args:
        paths: of them.
        megabytes: of attempts that are read; of more each n-th step is.

    Raises:
        UserError: a folder holds nothing that could be shown.
    """
    comparison = _first(read_comparison(path) for path in paths)
    scaling = _first(read_scaling(path) for path in paths)
    found = [pair for path in paths for pair in find_runs(path)]
    runs = [(name, run) for name, run in found if run.steps() or run.evaluations()]
    if len(runs) < len(found) and not (comparison or scaling):
        empty = next(run.path for name, run in found if (name, run) not in runs)
        raise UserError(f"{empty} is no run directory: it holds neither steps nor evaluations")
    every = max(1, math.ceil(sum(count_bytes(run) for _, run in runs) / (megabytes * 2**20)))
    names = _tell_apart([(name, run.path) for name, run in runs])
    data = [gather_run(name, run, every) for name, (_, run) in zip(names, runs, strict=True)]
    title = paths[0].resolve().name if len(paths) == 1 else f"{len(data)} runs"
    return Gathered(title, data, comparison, scaling, every)


def gather_run(name: str, run: RunDirectory, every: int = 1) -> RunData:
    """The data of a run."""
    steps, evaluations = _read_steps(run), run.evaluations()
    stages = find_stages(steps)
    attempts = pack_attempts(run, choose_files(run, every), stages)
    charts = {
        "name": name,
        "stages": stages,
        "alarms": find_alarm_steps(steps),
        "training": gather_training_curves(steps, average_lengths(attempts)),
        "held_out": [panel for split, e in evaluations.items() for panel in gather_evaluation_curves(split, e)],
        "edits": gather_edits(evaluations),
        "difficulty": gather_difficulty(attempts, evaluations),
    }
    return RunData(
        name,
        describe_run(run, steps, stages, evaluations),
        describe_alarms(steps) if steps else [],
        [_tabulate(split, latest) for split, latest in evaluations.items()],
        run.recipe_text(),
        charts,
        attempts,
    )


def _read_steps(run: RunDirectory) -> list[Record]:
    steps = {step["step"]: step for step in run.steps()}
    return [steps[number] for number in sorted(steps)]


def _tabulate(split: str, latest: Record) -> dict[str, Any]:
    """The latest evaluation beside the first; by itself where there is no other."""
    first = latest.get("history", [latest])[0]
    if first["step"] == latest["step"]:
        return {"title": f"{split}, step {latest['step']}", "tiles": [], "grid": tabulate_evaluation(latest)}
    grid: Grid = tabulate_change(first, latest)
    tiles = list(_make_tiles(first["metrics"], latest["metrics"]))
    return {"title": f"{split}: step {first['step']} and step {latest['step']}", "tiles": tiles, "grid": grid}


def _make_tiles(before: Record, after: Record) -> Iterator[dict[str, str]]:
    """The headline figures in percent, with those before."""
    for label, name in HEADLINES.items():
        old, new = before[name]["value"], after[name]["value"]
        if old is not None and new is not None:
            sign = "+z" if name == "delta" else ""
            yield {"label": label, "after": f"{100 * new:{sign}.1f}", "before": f"{100 * old:{sign}.1f}"}


def _tell_apart(runs: Sequence[tuple[str, Path]]) -> list[str]:
    """Names of runs, with the folder around it where two have the same."""
    names = [name for name, _ in runs]
    return [f"{path.resolve().parent.name}/{name}" if names.count(name) > 1 else name for name, path in runs]


def _first(found: Iterator[Record | None]) -> Record | None:
    return next((one for one in found if one), None)
