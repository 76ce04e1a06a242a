"""The dataclasses of a recipe as strict pydantic models: no further key, no conversion of types."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import operator
import textwrap
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, create_model

from scorl.loggers import LOGGERS
from scorl.objectives import OBJECTIVES
from scorl.recipe.sections import Recipe, TaskChoice
from scorl.stage import Stage
from scorl.tasks import TASKS

__all__ = ["descriptions", "recipe_model", "stage_model", "task_model"]

CONFIG = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

BOUNDS: dict[str, dict[str, float]] = {
    **dict.fromkeys(
        ("steps", "problems", "samples", "attempts", "max_tokens", "batch_size", "tokens_per_batch"),
        {"ge": 1},
    ),
    **dict.fromkeys(("keep", "rank", "workers"), {"ge": 1}),
    **dict.fromkeys(("seed", "every", "warmup", "clip", "weight_decay", "temperature"), {"ge": 0}),
    **dict.fromkeys(("alpha", "beta_1", "beta_2"), {"ge": 0}),
    **dict.fromkeys(("lr", "max_logprob_gap"), {"gt": 0}),
}
"""Least values by field name, the same in every section; tasks check their own."""

SUPERVISED = {"attempts": 1, "samples": 1}
"""Defaults of a supervised stage, which samples nothing."""

HELP = {
    "extends": "A recipe to start from: a path or the name of a shipped recipe. Mappings merge, lists are replaced.",
    "versions": "Noted by a run; not read.",
    "seed": "Decides everything that is drawn.",
    "stages": "What the run goes through, in order.",
    "loggers": "Where the lines of steps.jsonl go as well.",
}


def recipe_model(task: Any, stages: Any) -> type[BaseModel]:
    """The model of a whole recipe, given the types of its task and of its stages."""
    sections = get_type_hints(Recipe)
    made: dict[str, Any] = {
        "extends": (str | None, None),
        "seed": (Annotated[int, Field(ge=0)], 0),
        "task": (task, ...),
        "stages": (stages, ...),
        "loggers": (tuple[Literal[tuple(LOGGERS)], ...], ()),
        "versions": (dict[str, str] | None, None),
    }
    for field in dataclasses.fields(Recipe):
        if field.name not in made:
            model = _model(sections[field.name])
            made[field.name] = (
                model,
                ... if field.default is dataclasses.MISSING else Field(default_factory=model),
            )
    described = {
        name: (Annotated[hint, Field(description=HELP.get(name))], default)
        for name, (hint, default) in made.items()
    }
    return create_model("Recipe", __config__=CONFIG, __doc__=Recipe.__doc__, **described)


@functools.cache
def stage_model(name: str) -> type[BaseModel]:
    """The model of a stage: its objective's name, the stage's settings and the objective's own."""
    objective = OBJECTIVES[name]
    stage = _fields(Stage, skip=("objective",), defaults=SUPERVISED if name == "supervised" else {})
    chosen = {"objective": (Literal[name], ...), **stage, **_fields(objective)}
    return create_model(objective.__name__, __config__=CONFIG, __doc__=objective.__doc__, **chosen)


@functools.cache
def task_model(name: str) -> type[BaseModel]:
    """The model of a task's section: name, split, and the task's own settings."""
    settings = TASKS[name][0]
    chosen = {"name": (Literal[name], ...), **_fields(TaskChoice, skip=("name", "settings"))}
    return create_model(
        settings.__name__,
        __config__=CONFIG,
        __doc__=settings.__doc__,
        **chosen,
        **_fields(settings, bounds={}),
    )


def descriptions(kind: type) -> dict[str, str]:
    """The text under each field of a dataclass, its lines joined."""
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, text in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(text, ast.Expr)
            and isinstance(text.value, ast.Constant)
        ):
            found[ast.unparse(field.target)] = " ".join(str(text.value.value).split())
    return found


@functools.cache
def _model(kind: type) -> type[BaseModel]:
    return create_model(kind.__name__, __config__=CONFIG, __doc__=kind.__doc__, **_fields(kind))


def _fields(
    kind: type,
    *,
    skip: tuple[str, ...] = (),
    defaults: Mapping[str, Any] | None = None,
    bounds: Mapping[str, dict[str, float]] = BOUNDS,
) -> dict[str, Any]:
    """The fields of a dataclass as `create_model` takes them."""
    hints, texts = get_type_hints(kind), descriptions(kind)
    made = {}
    for field in dataclasses.fields(kind):
        if field.name in skip:
            continue
        default = (defaults or {}).get(field.name, field.default)
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        about = Field(description=texts.get(field.name), **bounds.get(field.name, {}))  # type: ignore[arg-type]
        made[field.name] = (
            Annotated[_hint(hints[field.name]), about],
            ... if default is dataclasses.MISSING else default,
        )
    return made


def _hint(hint: Any) -> Any:
    """The type with strict models for dataclasses."""
    if dataclasses.is_dataclass(hint):
        return _model(hint)  # type: ignore[arg-type]
    options = get_args(hint)
    if any(map(dataclasses.is_dataclass, options)):
        return functools.reduce(operator.or_, map(_hint, options))
    return hint
