"""The JSON schema of recipes, by which editors complete and check them."""

from __future__ import annotations

from typing import Annotated, Any, Union

from pydantic import Field

from scorl.objectives import OBJECTIVES
from scorl.recipe.models import recipe_model, stage_model, task_model
from scorl.tasks import TASKS

__all__ = ["json_schema"]


def json_schema() -> dict[str, Any]:
    """The schema of a recipe file; a file that extends another may leave out what is required there."""
    task = Annotated[Union[tuple(map(task_model, TASKS))], Field(discriminator="name")]  # noqa: UP007
    stage = Annotated[Union[tuple(map(stage_model, OBJECTIVES))], Field(discriminator="objective")]  # noqa: UP007
    schema = recipe_model(task, tuple[stage, ...]).model_json_schema()  # type: ignore[valid-type]
    del schema["required"], schema["$defs"]["ModelSettings"]["required"]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "A scorl recipe"} | schema
