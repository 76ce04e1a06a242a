"""Recipes: what a run is made of, written down in YAML, strict and typed.

    recipe = resolve("countdown", ["stages.1.alpha=5", "seed=2"])
    recipe.stages[1].objective.alpha            # 5.0
    recipe.dump()                               # the same recipe with every default written out

The frozen dataclasses in `sections`, the objectives and the tasks' settings are the one source of names,
types, defaults and descriptions: the checks, the messages and the JSON schema are derived from them.
"""

from scorl.recipe.auto import decide, decided_like, device_kind
from scorl.recipe.resolve import (
    changed,
    differences,
    is_longer,
    resolve,
    resolve_sampler,
    resolve_task,
    resolve_text,
    resolve_trained,
)
from scorl.recipe.schema import json_schema
from scorl.recipe.sections import EngineSettings, LauncherSettings, Recipe, TaskChoice
from scorl.recipe.source import SHIPPED_FOLDER, shipped_recipes

__all__ = [
    "SHIPPED_FOLDER",
    "EngineSettings",
    "LauncherSettings",
    "Recipe",
    "TaskChoice",
    "changed",
    "decide",
    "decided_like",
    "device_kind",
    "differences",
    "is_longer",
    "json_schema",
    "resolve",
    "resolve_sampler",
    "resolve_task",
    "resolve_text",
    "resolve_trained",
    "shipped_recipes",
]
