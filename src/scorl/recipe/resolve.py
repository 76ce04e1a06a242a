"""From a recipe's name and overrides to a checked, frozen `Recipe`, before any model is loaded."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from pydantic_core import to_jsonable_python

from scorl.recipe.auto import decided_like
from scorl.recipe.hidden import hide_secrets
from scorl.recipe.renamed import leaves, rename
from scorl.recipe.rules import contradictions
from scorl.recipe.sampler import Sampler
from scorl.recipe.sections import CHOICES, Recipe, TaskChoice, adapter, find_tasks, task_adapter
from scorl.recipe.source import assign, load, read_mapping
from scorl.settings import ModelSettings
from scorl.validation import refuse, validated

FREE = (
    *("launcher.", "loggers", "logging.", "checkpoint.save_total_limit", "checkpoint.state_total_limit"),
    *("engine.url", "engine.base_url", "engine.timeout", "engine.python"),
)
"""How the keys begin by which no run is computed otherwise: where, by how many, how long waited for, how much kept."""

__all__ = [
    "changed",
    "differences",
    "is_longer",
    "resolve",
    "resolve_sampler",
    "resolve_task",
    "resolve_text",
    "resolve_trained",
]

CHAT_KEYS = ("chat_template_kwargs", "chat_template_date", "stop_strings")
"""Of a model: what decides its prompts and where its responses end, and is in none of its files."""
SAVED_KEYS = ("chat_template", "lora")
"""Of a model: what a checkpoint has in its own files, the template in its tokenizer and the adapters in its weights."""


def resolve(recipe: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe (a file, a run directory, a shipped name), lay overrides on it, and check all of it.

    Raises:
        UserError: everything that is wrong, a line each, with the key's path.
    """
    return _resolved(assign(load(recipe), overrides), f"recipe '{recipe}'")


def resolve_text(text: str, what: str) -> Recipe:
    """As `resolve`, of what stood in a run's recipe.yaml; `what` says where it stands."""
    return _resolved(read_mapping(text, what), what)


def resolve_trained(run: Path) -> tuple[ModelSettings, bool]:
    """The model that a run starts from and whether it trains it, read without its task, whose code may be elsewhere.

    Raises:
        UserError: what the run's recipe says of them is wrong.
    """
    values = load(run)
    model = validated(TypeAdapter(ModelSettings), values.get("model"), f"recipe '{run}', model")
    return model, bool(values.get("stages"))


def changed(recipe: Recipe, overrides: Iterable[str], what: str) -> Recipe:
    """A recipe with overrides laid on it, checked as a whole; `what` names it in messages.

    Raises:
        UserError: everything that is wrong, a line each, with the key's path.
    """
    return _resolved(assign(recipe.as_dict(), overrides), what)


def resolve_task(name: str, overrides: Iterable[str] = ()) -> TaskChoice:
    """A task by name with settings written `key=value` or `task.key=value`, checked like a recipe's."""
    values = assign({"name": name}, [override.removeprefix("task.") for override in overrides])
    return validated(task_adapter(find_tasks(name)), values, f"task '{name}'")


def resolve_sampler(
    model: str,
    engine: str,
    overrides: Iterable[str] = (),
    trained: ModelSettings | None = None,
    is_saved: bool = True,
) -> Sampler:
    """A model and an engine by name with settings written `model.key=value` or `engine.key=value`, checked like a
    recipe's.

    Args:
        model: its name.
        engine: its name.
        overrides: the settings.
        trained: the model of the run that it is of, whose chat it gets.
        is_saved: whether the run saved it; else it is the one that the run starts from.
    """
    keys = CHAT_KEYS if is_saved else (*CHAT_KEYS, *SAVED_KEYS)
    chat = {key: to_jsonable_python(getattr(trained, key)) for key in keys} if trained else {}
    values = assign({"model": {"path": model, **chat}, "engine": {"name": engine}}, overrides)
    return validated(TypeAdapter(Sampler), _with_present_names(values), f"engine '{engine}'")


def differences(started: Recipe, other: Recipe) -> list[str]:
    """Where a recipe differs from the one that a run was started with, a line for each key.

    `FREE` keys and secrets may differ, and what the recipe leaves to the machine was decided at the start.
    """
    flat, flat_other = (dict(leaves(hide_secrets(decided_like(r, started).as_dict()))) for r in (started, other))
    keys = [*flat, *(key for key in flat_other if key not in flat)]
    return [
        f"{key}: {flat.get(key)!r} against {flat_other.get(key)!r}"
        for key in keys
        if flat.get(key) != flat_other.get(key) and not key.startswith(FREE)
    ]


def is_longer(other: Recipe, started: Recipe) -> bool:
    """Whether a recipe is the one that a run was started with but for more steps of its last stage, or more stages.

    What a stage collects at its start is divided among its steps, so that it cannot get more of them.
    """
    here = len(started.stages)
    if not here or here > len(other.stages):
        return here < len(other.stages) and not differences(started, replace(other, stages=()))
    last, grown = started.stages[-1], other.stages[here - 1]
    longer = grown.steps > last.steps and last.objective.source != "collected"
    same = replace(other, stages=(*other.stages[: here - 1], replace(grown, steps=last.steps) if longer else grown))
    return (longer or len(other.stages) > here) and not differences(started, same)


def _with_present_names(values: dict[str, Any]) -> dict[str, Any]:
    """The mapping of a recipe in which former names are the present ones, each of which is said."""
    values, lines = rename(values)
    for line in lines:
        warnings.warn(line, stacklevel=4)
    return values


def _resolved(values: dict[str, Any], what: str) -> Recipe:
    values = _with_present_names(values)
    task = values.get("task")
    tasks = find_tasks(task.get("name") if isinstance(task, dict) else None)
    values |= {name: choice.with_name(values[name]) for name, choice in CHOICES.items() if name in values}
    recipe = validated(adapter(tasks), values, what)
    refuse(contradictions(recipe), what)
    return recipe
