"""What a run is, in a few words each: model, task, seed, stages, time, versions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import yaml

from scorl.recipe.hidden import hide_in_text
from scorl.report.packing import list_files
from scorl.run.directory import RunDirectory
from scorl.run.files import Record
from scorl.run.progress import format_duration

__all__ = ["count_steps", "describe_run", "is_done", "read_recipe", "show_recipe"]


def read_recipe(run: RunDirectory) -> dict[str, Any]:
    """The recipe as it stands, of any version; empty where it is none."""
    try:
        recipe = yaml.safe_load(run.recipe_text())
    except yaml.YAMLError:
        return {}
    return recipe if isinstance(recipe, dict) else {}


def show_recipe(run: RunDirectory) -> str:
    """Its text, without secrets."""
    return hide_in_text(run.recipe_text())


def is_done(run: RunDirectory, evaluations: Mapping[str, Record]) -> bool:
    """Whether there is an evaluation after the last step; no, where the recipe does not say which that is."""
    total = count_steps(read_recipe(run))
    return total is not None and any(latest["step"] == total for latest in evaluations.values())


def count_steps(recipe: Any) -> int | None:
    """The steps of all stages of a recipe as it stands; None where it does not say."""
    try:
        return sum(int(stage["steps"]) for stage in recipe["stages"])
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def describe_run(
    run: RunDirectory, steps: Sequence[Record], stages: Sequence[tuple[int, str]], evaluations: Mapping[str, Record]
) -> list[tuple[str, str]]:
    """(what, its value) of all that the files say."""
    return [(name, value) for name, value in _describe(run, steps, stages, evaluations) if value]


def _describe(
    run: RunDirectory, steps: Sequence[Record], stages: Sequence[tuple[int, str]], evaluations: Mapping[str, Record]
) -> Iterator[tuple[str, str]]:
    recipe = read_recipe(run)
    evaluation = next(iter(evaluations.values()), {})
    yield "model", _pick(recipe, "model", "path") or str(evaluation.get("model", ""))
    yield "task", _pick(recipe, "task", "name") or str(evaluation.get("task", ""))
    yield (
        "steps",
        f"{len(steps)} step{'s' * (len(steps) > 1)}: {', then '.join(name for _, name in stages)}"
        if stages
        else "none yet",
    )
    yield "seed", _pick(recipe, "seed") or _pick(recipe, "run", "seed")
    seconds = sum(sum((step.get("seconds") or {}).values()) for step in steps)
    yield "time in steps", format_duration(seconds) if seconds else ""
    yield "written", _describe_times(run)
    versions = recipe.get("versions")
    if isinstance(versions, dict):
        yield "versions", ", ".join(f"{name} {version}" for name, version in versions.items())


def _pick(recipe: Any, *keys: str) -> str:
    for key in keys:
        recipe = recipe.get(key) if isinstance(recipe, dict) else None
    return "" if recipe is None else str(recipe)


def _describe_times(run: RunDirectory) -> str:
    """When the attempts of the first and of the newest step were written, as the dates of their files say."""
    dates = [run.attempt_files(held_out).written(step) for step, held_out in list_files(run)]
    written = [date for date in dates if date is not None]
    if not written:
        return ""
    first, last = (datetime.fromtimestamp(seconds, UTC) for seconds in (min(written), max(written)))
    return f"{first:%Y-%m-%d %H:%M} to {last:{'' if first.date() == last.date() else '%Y-%m-%d '}%H:%M} UTC"
