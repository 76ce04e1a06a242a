"""From a recipe's name and overrides to a checked, frozen `Recipe`, before any model is loaded."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from pydantic import BaseModel, ValidationError

from scorl.errors import UserError, nearest
from scorl.objectives import OBJECTIVES
from scorl.recipe.messages import complaints
from scorl.recipe.models import recipe_model, stage_model, task_model
from scorl.recipe.renamed import leaves, rename
from scorl.recipe.rules import contradictions
from scorl.recipe.sections import (
    EngineSettings,
    LauncherSettings,
    ModelSettings,
    Recipe,
    TaskChoice,
    TurnSettings,
)
from scorl.recipe.source import assign, load
from scorl.settings import Checkpoints, Evaluations, LearnerSettings
from scorl.tasks import TASKS
from scorl.training.stage import Stage

__all__ = ["changed", "differences", "resolve", "resolve_task"]

Kind = TypeVar("Kind")


def resolve(recipe: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe (a file, a run directory, a shipped name), lay overrides on it, and check all of it.

    Raises:
        UserError: everything that is wrong, a line each, with the key's path.
    """
    return _resolved(assign(load(recipe), overrides), f"recipe '{recipe}'")


def changed(recipe: Recipe, overrides: Iterable[str], what: str) -> Recipe:
    """A recipe with overrides laid on it, checked as a whole; `what` names it in messages.

    Raises:
        UserError: everything that is wrong, a line each, with the key's path.
    """
    return _resolved(assign(recipe.as_dict(), overrides), what)


def resolve_task(name: str, overrides: Iterable[str] = ()) -> TaskChoice:
    """A task by name with settings written `key=value` or `task.key=value`, checked like a recipe's."""
    keys = [override.removeprefix("task.") for override in overrides]
    values = {"task": assign({"name": name}, keys)}
    return _task(_checked(_task_type(values), values["task"], f"task '{name}'"))


def differences(one: Recipe, other: Recipe) -> list[str]:
    """Where two recipes differ, a line for each key; but for the launcher, who changes nothing that is computed."""
    flat, flat_other = ({".".join(map(str, path)): value for path, value in leaves(r.as_dict())} for r in (one, other))
    keys = [*flat, *(key for key in flat_other if key not in flat)]
    return [
        f"{key}: {flat.get(key)!r} against {flat_other.get(key)!r}"
        for key in keys
        if flat.get(key) != flat_other.get(key) and not key.startswith("launcher.")
    ]


def _resolved(values: dict[str, Any], what: str) -> Recipe:
    values, former = rename(values)
    _refuse(former, what)
    checked = _checked(recipe_model(_task_type(values), _stage_types(values)), values, what)
    found = _recipe(checked)
    _refuse(contradictions(found), what)
    return found


def _checked(model: type[BaseModel], values: Any, what: str) -> dict[str, Any]:
    """The values with every default; JSON is the form in which strict types and lists for tuples agree."""
    try:
        return model.model_validate_json(json.dumps(values)).model_dump()
    except ValidationError as error:
        _refuse(complaints(error, model), what)
        raise


def _refuse(lines: Sequence[str], what: str) -> None:
    if lines:
        raise UserError(f"{what}: {lines[0]}" if len(lines) == 1 else "\n  ".join([f"{what}:", *lines]))


def _task_type(values: Mapping[str, Any]) -> type[BaseModel]:
    return task_model(_choice(values.get("task"), "name", TASKS, "task"))


def _stage_types(values: Mapping[str, Any]) -> Any:
    """The type of exactly this list of stages, so that each entry is held to its own objective."""
    stages = values.get("stages")
    if not isinstance(stages, list):
        raise UserError("stages: should be a list, as in [{objective: reinforce, steps: 100}]; [] only measures")
    names = [_choice(stage, "objective", OBJECTIVES, f"stages.{i}") for i, stage in enumerate(stages)]
    return tuple[tuple(map(stage_model, names)) or ()]  # type: ignore[misc]


def _choice(section: Any, key: str, choices: Iterable[str], path: str) -> str:
    """The name by which a section chooses its variant."""
    if not isinstance(section, dict) or key not in section:
        raise UserError(f"{path}.{key}: is missing. Allowed: {', '.join(choices)}")
    if section[key] not in choices:
        raise UserError(f"{path}.{key}: there is no '{section[key]}': {nearest(str(section[key]), choices)}")
    return str(section[key])


def _recipe(values: Mapping[str, Any]) -> Recipe:
    return Recipe(
        model=_built(ModelSettings, values["model"]),
        task=_task(values["task"]),
        stages=tuple(map(_stage, values["stages"])),
        seed=values["seed"],
        turns=_built(TurnSettings, values["turns"]),
        engine=_built(EngineSettings, values["engine"]),
        learner=_built(LearnerSettings, values["learner"]),
        evaluation=_built(Evaluations, values["evaluation"]),
        checkpoint=_built(Checkpoints, values["checkpoint"]),
        launcher=_built(LauncherSettings, values["launcher"]),
        loggers=values["loggers"],
    )


def _task(values: Mapping[str, Any]) -> TaskChoice:
    return TaskChoice(values["name"], values["split"], _built(TASKS[values["name"]][0], values))


def _stage(values: Mapping[str, Any]) -> Stage:
    return _built(Stage, {**values, "objective": _built(OBJECTIVES[values["objective"]], values)})


def _built(kind: type[Kind], values: Mapping[str, Any]) -> Kind:
    """A dataclass from checked values; further keys belong to others."""
    hints = get_type_hints(kind)
    given = {}
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        value = values[field.name]
        inner = [option for option in get_args(hints[field.name]) if dataclasses.is_dataclass(option)]
        given[field.name] = _built(inner[0], value) if inner and isinstance(value, dict) else value  # type: ignore[arg-type]
    return kind(**given)
