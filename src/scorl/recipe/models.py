"""The dataclasses of a recipe as strict pydantic models: no further key, no conversion of types."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import operator
import textwrap
from typing import Annotated, Any, Literal, get_args, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, create_model

from scorl.objectives import OBJECTIVES
from scorl.recipe.sections import ModelSettings, Recipe, TaskChoice
from scorl.settings import LoggerName
from scorl.tasks import TASKS
from scorl.training.stage import Stage

__all__ = ["descriptions", "recipe_model", "stage_model", "task_model"]

CONFIG = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

BOUNDS: dict[str, dict[str, float]] = {
    name: {sign: bound}
    for sign, bound, names in (
        (
            "ge",
            1,
            "steps problems samples attempts branches epochs max_tokens batch_size tokens_per_microbatch save_steps "
            "save_total_limit r workers max_model_len tensor_parallel_size",
        ),
        ("ge", 0, "seed eval_steps warmup_steps max_grad_norm weight_decay temperature alpha beta_1 beta_2 restarts"),
        ("gt", 0, "learning_rate max_logprob_gap target_kl importance_sampling_cap max_sync_gap timeout"),
    )
    for name in names.split()
}
BOUNDS |= {name: {"ge": 0.0, "le": 1.0} for name in ("offline", "gamma")}
BOUNDS |= {name: {"ge": 0.0, "lt": 1.0} for name in ("adam_beta1", "adam_beta2")}
BOUNDS |= {"gpu_memory_utilization": {"gt": 0.0, "lt": 1.0}}
"""Least (and greatest) values by field name, the same in every section; tasks check their own."""

SUPERVISED = {"attempts": 1, "samples": 1}
"""Defaults of a supervised stage, which samples nothing."""

HELP = {
    "seed": "Decides everything that is drawn.",
    "stages": "What the run goes through, in order.",
    "loggers": "Where the lines of steps.jsonl go as well.",
}


def recipe_model(task: Any, stages: Any) -> type[BaseModel]:
    """The model of a whole recipe, given the types of its task and of its stages."""
    made: dict[str, Any] = {
        "seed": (Annotated[int, Field(ge=0)], 0),
        "model": (_model(ModelSettings), ...),
        "task": (task, ...),
        "stages": (stages, ...),
        "loggers": (tuple[LoggerName, ...], ()),
    }
    for name, kind in get_type_hints(Recipe).items():
        if name not in made:
            section = _model(kind)
            made[name] = (section, Field(default_factory=section))
    described = {
        name: (Annotated[hint, Field(description=HELP.get(name))], default) for name, (hint, default) in made.items()
    }
    return _strict(Recipe, described)


@functools.cache
def stage_model(name: str) -> type[BaseModel]:
    """The model of a stage: its objective's name, the stage's settings and the objective's own."""
    objective = OBJECTIVES[name]
    stage = _fields(Stage, skip=("objective",))
    if name == "supervised":
        stage |= {key: (stage[key][0], default) for key, default in SUPERVISED.items()}
    return _strict(objective, {"objective": (Literal[name], ...)} | stage | _fields(objective))


@functools.cache
def task_model(name: str) -> type[BaseModel]:
    """The model of a task's section: name, split, and the task's own settings."""
    settings = TASKS[name][0]
    chosen = {"name": (Literal[name], ...), **_fields(TaskChoice, skip=("name", "settings"))}
    return _strict(settings, chosen | _fields(settings, bounded=False))


def descriptions(kind: type) -> dict[str, str]:
    """The text under each field of a dataclass, its base's included, its lines joined."""
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {name: text for base in kind.__bases__ if base is not object for name, text in descriptions(base).items()}
    for pair in zip(body.body, body.body[1:], strict=False):
        match pair:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = " ".join(text.split())
    return found


@functools.cache
def _model(kind: type) -> type[BaseModel]:
    return _strict(kind, _fields(kind))


def _strict(kind: type, fields: dict[str, Any]) -> type[BaseModel]:
    return create_model(kind.__name__, __config__=CONFIG, __doc__=kind.__doc__, **fields)


def _fields(kind: type, skip: tuple[str, ...] = (), bounded: bool = True) -> dict[str, Any]:
    """The fields of a dataclass as `create_model` takes them."""
    hints, texts = get_type_hints(kind), descriptions(kind)
    made = {}
    for field in dataclasses.fields(kind):
        if field.name not in skip:
            bound: dict[str, Any] = BOUNDS.get(field.name, {}) if bounded else {}
            about = Field(description=texts.get(field.name), **bound)
            made[field.name] = (Annotated[_hint(hints[field.name]), about], _default(field))
    return made


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return ... if field.default is dataclasses.MISSING else field.default


def _hint(hint: Any) -> Any:
    """The type with strict models for dataclasses."""
    if dataclasses.is_dataclass(hint):
        return _model(hint)  # type: ignore[arg-type]
    options = get_args(hint)
    if any(map(dataclasses.is_dataclass, options)):
        return functools.reduce(operator.or_, map(_hint, options))
    return hint
