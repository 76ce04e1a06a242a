"""The sections of a recipe as frozen dataclasses; the text under a field is its help in the JSON schema."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Any, ClassVar, Literal

import yaml
from annotated_types import Ge, Gt
from pydantic import ConfigDict, TypeAdapter

from scorl.engines import ENGINES
from scorl.objectives import OBJECTIVES
from scorl.recipe.choice import STRICT, OneOf
from scorl.settings import Checkpoints, Evaluations, LearnerSettings, LoggerName, ModelSettings, TorchSettings
from scorl.tasks import TASKS
from scorl.tasks.task import Task
from scorl.tasks.turns import TURNS
from scorl.training.stage import Stage

__all__ = [
    "CHOICES",
    "EngineSettings",
    "LauncherSettings",
    "Recipe",
    "TaskChoice",
    "TurnSettings",
    "adapter",
]


@dataclass(frozen=True)
class TaskChoice:
    """A task by name, the split to train on, and the task's own settings."""

    name: str
    split: str = "train"
    """The split to train on."""
    settings: Any = None
    """The task's settings dataclass; in YAML its keys stand beside `name` and `split`."""

    def build(self) -> Task:
        """The task itself, its files read."""
        return TASKS[self.name][1](self.settings)


@dataclass(frozen=True)
class TurnSettings:
    """What is said between two attempts."""

    name: Literal["correction", "self_refine", "verification"] = "correction"
    """`correction` says that there might be an error; `self_refine` asks for a critique, then for another attempt;
    `verification` asks whether the answer is right, then for another attempt."""
    correction: str | None = None
    """The correction message; null: the task's own wording."""
    critique: str | None = None
    """What asks for the critique; read by self_refine."""
    rewrite: str | None = None
    """What asks for the attempt after the critique; read by self_refine."""
    verification: str | None = None
    """What asks for the verification; read by verification."""

    def of(self, task: Task) -> Task:
        """The task with these turns."""
        kind = TURNS[self.name]
        given = {f.name: getattr(self, f.name) for f in fields(kind) if getattr(self, f.name) is not None}
        return replace(task, between=kind(**given))


@dataclass(frozen=True)
class EngineSettings:
    """What writes the attempts in training, by name, with the engine's own settings."""

    name: str = "torch"
    temperature: Annotated[float, Ge(0)] = 1.0
    """Sampling temperature of training (stated: 1.0); the learner uses the same."""
    max_tokens: Annotated[int, Ge(1)] = 256
    """The longest response in tokens (open)."""
    settings: Any = field(default_factory=TorchSettings)
    """The engine's settings dataclass; in YAML its keys stand beside `name`."""


@dataclass(frozen=True)
class LauncherSettings:
    """Where the run runs, and on how many processes; a run may go on elsewhere than it began (docs/scaling.md)."""

    name: Literal["local", "torchrun", "ray"] = "local"
    """`local`: the process that was started (or those that one's own torchrun has started); `torchrun` starts
    processes on this machine; `ray` on a Ray cluster, and again when one is lost."""
    workers: Annotated[int, Ge(1)] | None = None
    """Processes that learn, each on a GPU of its own where there are GPUs; null: as many as there are."""
    parallel: Literal["ddp", "fsdp2"] = "ddp"
    """What each of several processes keeps of the model: all of it (`ddp`), or a share, for models that do not
    fit (`fsdp2`)."""
    timeout: Annotated[float, Gt(0)] = 1800.0
    """Seconds that a process waits for the others before the run ends."""
    restarts: Annotated[int, Ge(0)] = 3
    """How often `ray` starts all processes again, from the newest checkpoint, after one was lost."""


TASK = OneOf("name", {name: kind for name, (kind, _) in TASKS.items()}, holder="settings")
ENGINE = OneOf("name", {name: kind.settings for name, kind in ENGINES.items()}, holder="settings", default="torch")
STAGE = OneOf("objective", OBJECTIVES, holder="objective")
CHOICES = {"task": TASK, "engine": ENGINE}
"""The sections in which one of several is named."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides a run."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    seed: Annotated[int, Ge(0)] = 0
    """Decides everything that is drawn."""
    model: ModelSettings
    task: Annotated[TaskChoice, TASK]
    turns: TurnSettings = field(default_factory=TurnSettings)
    engine: Annotated[EngineSettings, ENGINE] = field(default_factory=EngineSettings)
    learner: LearnerSettings = field(default_factory=LearnerSettings)
    stages: tuple[Annotated[Stage, STAGE], ...]
    """What the run goes through, in order."""
    evaluation: Evaluations = field(default_factory=Evaluations)
    checkpoint: Checkpoints = field(default_factory=Checkpoints)
    launcher: LauncherSettings = field(default_factory=LauncherSettings)
    loggers: tuple[LoggerName, ...] = ()
    """Where the lines of steps.jsonl go as well."""

    @property
    def steps(self) -> int:
        """The steps of all stages together."""
        return sum(stage.steps for stage in self.stages)

    def as_dict(self) -> dict[str, Any]:
        """The recipe in the shape of its YAML, every default written out."""
        written: dict[str, Any] = adapter().dump_python(self, mode="json")
        return written

    def dump(self, versions: Mapping[str, str] | None = None) -> str:
        """The recipe as YAML that `resolve` reads back as the same; `versions` are noted and not read."""
        values = self.as_dict() | ({"versions": dict(versions)} if versions else {})
        return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=110)


@functools.cache
def adapter() -> TypeAdapter[Recipe]:
    """What checks and writes recipes."""
    return TypeAdapter(Recipe)
