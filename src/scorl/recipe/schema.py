"""The JSON schema of recipes, by which editors complete and check them."""

from __future__ import annotations

import functools
import operator
from typing import Annotated, Any

from pydantic import BaseModel, Field

from scorl.objectives import OBJECTIVES
from scorl.recipe.models import recipe_model, stage_model, task_model
from scorl.tasks import TASKS

__all__ = ["json_schema"]

FILE_KEYS = {
    "extends": {
        "description": "A recipe to start from, a path or a shipped name; mappings merge, lists do not.",
        "type": ["string", "null"],
    },
    "versions": {"description": "Noted by a run; not read.", "type": "object"},
}
"""Keys of the file rather than of the recipe."""


def json_schema() -> dict[str, Any]:
    """The schema of a recipe file; a file that extends another may leave out what is required there."""
    task = _either("name", [task_model(name) for name in sorted(TASKS)])
    stage: Any = _either("objective", [stage_model(name) for name in sorted(OBJECTIVES)])
    schema = recipe_model(task, tuple[stage, ...]).model_json_schema()
    del schema["required"], schema["$defs"]["ModelSettings"]["required"]
    schema["properties"] |= FILE_KEYS
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema


def _either(key: str, models: list[type[BaseModel]]) -> Any:
    return Annotated[functools.reduce(operator.or_, models), Field(discriminator=key)]
