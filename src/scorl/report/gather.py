"""Everything that a report shows of runs and folders, gathered from their files as plain data."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scorl.errors import UserError
from scorl.metrics import HEADLINES
from scorl.metrics.alarms import describe_alarms
from scorl.report.comparison import find_runs, read_comparison, read_scaling
from scorl.report.curves import find_alarm_steps, find_stages, gather_evaluation_curves, gather_training_curves
from scorl.report.distributions import gather_difficulty, gather_edits
from scorl.report.facts import describe_run, is_done, show_recipe
from scorl.report.packing import Packed, average_lengths, choose_files, count_bytes, pack_attempts
from scorl.report.table import Grid, label_metric, tabulate_change, tabulate_evaluation
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
    comparisons: Sequence[Record] = ()
    scalings: Sequence[Record] = ()
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
    comparisons, scalings = (_read_folders(paths, read) for read in (read_comparison, read_scaling))
    runs: list[tuple[str, RunDirectory]] = []
    for path in paths:
        found = [(name, run) for name, run in find_runs(path) if run.steps() or run.evaluations()]
        if not found and not any((path / name).is_file() for name in ("compare.json", "scale.json")):
            raise UserError(f"{path} is no run directory: it holds neither steps nor evaluations")
        runs += found
    every = max(1, math.ceil(sum(count_bytes(run) for _, run in runs) / (megabytes * 2**20)))
    names = _tell_apart([(name, run.path) for name, run in runs])
    data = [gather_run(name, run, every) for name, (_, run) in zip(names, runs, strict=True)]
    title = (
        f"{len(data)} runs" if len(paths) > 1 and len(data) > 1 else ", ".join(path.resolve().name for path in paths)
    )
    return Gathered(title, data, comparisons, scalings, every)


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
        describe_alarms(steps, is_done(run, evaluations)) if steps else [],
        [_tabulate(split, latest) for split, latest in evaluations.items()],
        show_recipe(run),
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
    for name in HEADLINES.values():
        old, new = before[name]["value"], after[name]["value"]
        if old is not None and new is not None:
            sign = "+z" if name == "delta" else ""
            yield {"label": label_metric(name), "after": f"{100 * new:{sign}.1f}", "before": f"{100 * old:{sign}.1f}"}


def _tell_apart(runs: Sequence[tuple[str, Path]]) -> list[str]:
    """Names of runs and folders; those that are the same with the nearest folders around them that differ."""
    same: dict[str, list[int]] = {}
    for k, (name, _) in enumerate(runs):
        same.setdefault(name, []).append(k)
    names: dict[int, str] = {}
    for name, places in same.items():
        names |= zip(places, _name_apart(name, [runs[k][1].resolve() for k in places]), strict=True)
    return [names[k] for k in range(len(runs))]


def _name_apart(name: str, paths: Sequence[Path]) -> list[str]:
    """Names for paths that have the same; numbered where it is one path twice."""
    if len(paths) == 1:
        return [name]
    for around in zip(*(path.parents for path in paths), strict=False):
        folders = {folder.name for folder in around}
        if len(folders) == len(paths) and all(folders):
            return [f"{folder.name}/{name}" for folder in around]
    return [f"{name} ({number})" for number, _ in enumerate(paths, 1)]


def _read_folders(paths: Sequence[Path], read: Callable[[Path], Record | None]) -> list[Record]:
    """What the folders hold of a kind, each with its folder's name."""
    found = [(path, one) for path in paths if (one := read(path))]
    names = _tell_apart([(path.resolve().name, path) for path, _ in found])
    return [{"name": name, **one} for name, (_, one) in zip(names, found, strict=True)]
