"""The sections of a recipe as frozen dataclasses; the text under a field is its help in the JSON schema."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, make_dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Interval
from pydantic import AfterValidator, ConfigDict, TypeAdapter
from pydantic_core import to_jsonable_python

from scorl.engines import ENGINES
from scorl.objectives import OBJECTIVES
from scorl.recipe.choice import STRICT, OneOf
from scorl.recipe.yaml_text import to_yaml
from scorl.settings import (
    MOST,
    AutoSettings,
    CheckpointSettings,
    EvaluationSettings,
    Gpu,
    LearnerSettings,
    LoggerName,
    LoggingSettings,
    MaxTokens,
    ModelSettings,
    Sampling,
)
from scorl.tasks import TASKS, find_task
from scorl.tasks.asking import correction_of, pose_question
from scorl.tasks.data import Finite
from scorl.tasks.few_shot import show_examples
from scorl.tasks.own_code import is_own_code
from scorl.tasks.rows import OnError, handling_bad_rows
from scorl.tasks.task import Task
from scorl.tasks.turns import TURNS, Correction, Turns
from scorl.training.stage import Stage
from scorl.trajectory import Problem

__all__ = [
    "CHOICES",
    "EngineSettings",
    "LauncherSettings",
    "Recipe",
    "TaskChoice",
    "adapter",
    "find_tasks",
    "task_adapter",
]

ASKED = "asked"
"""The split of a question of the user's own."""


@dataclass(frozen=True)
class TaskChoice:
    """A task by name, the split to train on, and the task's own settings."""

    name: str
    split: str = "train"
    """The split to train on."""
    system_prompt: str | None = None
    """A system message before every problem; problems with one of their own keep that. null: none."""
    few_shot: Annotated[int, Interval(ge=0, le=MOST)] | str | tuple[dict[str, Any], ...] | None = None
    """Solved examples before every problem, as chat turns: so many from the split that is trained on, a file of them,
    or a list (docs/tasks.md)."""
    few_shot_seed: Annotated[int, Ge(0)] = 0
    """Decides which ones are drawn from the split; the recipe's `seed` does not."""
    on_error: OnError = "raise"
    """What a row that cannot be read does: `raise` ends the command with its line and the reason; `skip` leaves it
    out, and a warning says how many there were."""
    settings: Any = None
    """The task's settings dataclass; in YAML its keys stand beside `name` and `split`."""

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled: an own task's settings as plain values, for processes that have not imported its file."""
        if not is_own_code(self.name):
            return dict(vars(self))
        keys = [field.name for field in fields(self.settings) if field.init]
        return {**vars(self), "settings": {key: getattr(self.settings, key) for key in keys}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """From a pickle."""
        if is_own_code(state["name"]):
            state |= {"settings": find_task(state["name"])[0](**state["settings"])}
        vars(self).update(state)

    def build(self) -> Task:
        """The task itself, its files read."""
        with handling_bad_rows(self.on_error, self.name):
            task = self._in_context(find_task(self.name)[1](self.settings))
        return replace(task, settings=to_jsonable_python(find_tasks(self.name).write(self)))

    def pose(self, question: str) -> Problem:
        """A question of the user's own as this task asks; its files are read where few-shot examples are drawn from
        them alone.

        Raises:
            UserError: the task cannot read the question.
        """
        asked = {ASKED: Finite([pose_question(self.settings, question)])}
        drawn = isinstance(self.few_shot, int) and self.few_shot > 0
        with handling_bad_rows(self.on_error, self.name):
            splits = {**find_task(self.name)[1](self.settings).splits, **asked} if drawn else asked
            task = self._in_context(Task(self.name, splits, correction_of(self.settings), judge=lambda pairs: []))
        return task.split(ASKED).take(None)[0]

    def _in_context(self, task: Task) -> Task:
        """The task with what stands before its problems."""
        if self.few_shot:
            task = show_examples(task, self.settings, self.few_shot, self.split, self.few_shot_seed)
        return task.with_system_prompt(self.system_prompt) if self.system_prompt else task


@dataclass(frozen=True)
class EngineSettings:
    """What writes the attempts in training, by name, with the engine's own settings."""

    name: str = "auto"
    temperature: Annotated[float, Interval(ge=0, le=100)] = 1.0
    """Sampling temperature of training (stated: 1.0); the learner uses the same."""
    max_tokens: MaxTokens = 256
    """The longest response in tokens (open). A list, `[64, 256]`: that of attempt 1, of attempt 2, and so on; the last
    one is also that of every later attempt."""
    settings: Any = field(default_factory=AutoSettings)
    """The engine's settings dataclass; in YAML its keys stand beside `name`."""

    @property
    def sampling(self) -> Sampling:
        """How responses are drawn while training."""
        return Sampling(self.temperature, self.max_tokens)


@dataclass(frozen=True)
class LauncherSettings:
    """Where the run runs, and on how many processes; a run may resume elsewhere (docs/scaling.md)."""

    name: Literal["local", "torchrun", "ray"] = "local"
    """`local`: the process that was started (or those that one's own torchrun has started); `torchrun` starts
    processes on this machine, unless one's own torchrun has; `ray` on a Ray cluster, and again when one is lost."""
    workers: Annotated[int, Ge(1)] | None = None
    """Processes that learn, each on a GPU of its own where there are GPUs; null: as many as there are."""
    gpu: Gpu | None = None
    """The GPU that the recipe is made for, as many of them as there are workers: what `scorl plan` plans for; read
    nowhere else."""
    parallel: Literal["ddp", "fsdp2"] = "ddp"
    """What each of several processes keeps of the model: all of it (`ddp`), or a share, for models that do not
    fit (`fsdp2`)."""
    timeout: Annotated[float, Gt(0)] = 1800.0
    """Seconds that a process waits for the others before the run ends."""
    restarts: Annotated[int, Ge(0)] = 3
    """How often `ray` starts all processes again, from the newest checkpoint, after one was lost."""


TASK = OneOf(
    "name",
    {name: kind for name, (kind, _) in TASKS.items()},
    holder="settings",
    common=tuple(field.name for field in fields(TaskChoice) if field.name not in ("name", "settings")),
)
TURN = OneOf("name", TURNS, default="correction")
ENGINE = OneOf("name", {name: kind.settings for name, kind in ENGINES.items()}, holder="settings", default="auto")
STAGE = OneOf("objective", OBJECTIVES, holder="objective")
CHOICES = {"task": TASK, "turns": TURN, "engine": ENGINE}
"""The sections in which one of several is named."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides a run."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    seed: Annotated[int, Ge(0)] = 0
    """Decides everything that is drawn."""
    model: ModelSettings
    task: Annotated[TaskChoice, TASK]
    turns: Annotated[Turns, TURN] = field(default_factory=Correction)
    engine: Annotated[EngineSettings, ENGINE] = field(default_factory=EngineSettings)
    learner: LearnerSettings = field(default_factory=LearnerSettings)
    stages: tuple[Annotated[Stage, STAGE], ...]
    """What the run goes through, in order."""
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    checkpoint: CheckpointSettings = field(default_factory=CheckpointSettings)
    launcher: LauncherSettings = field(default_factory=LauncherSettings)
    loggers: tuple[LoggerName, ...] = ()
    """Where the lines of steps.jsonl, the held-out evaluations and the alarms go as well."""
    logging: LoggingSettings = field(default_factory=LoggingSettings)

    @property
    def steps(self) -> int:
        """The steps of all stages together."""
        return sum(stage.steps for stage in self.stages)

    @property
    def attempts(self) -> int:
        """At each problem of an evaluation: as many as the stages make, and two at least."""
        return max([2, *(stage.attempts for stage in self.stages)])

    def build_task(self) -> Task:
        """The task, its files read, with these turns between attempts."""
        task = self.task.build()
        turns = {"turns": to_jsonable_python(TURN.write(self.turns))}
        return replace(task, between=self.turns, settings={**task.settings, **turns})

    def as_dict(self) -> dict[str, Any]:
        """The recipe in the shape of its YAML, every default written out."""
        written: dict[str, Any] = adapter().dump_python(self, mode="json")
        return written

    def dump(self, versions: Mapping[str, str] | None = None) -> str:
        """The recipe as YAML that `resolve` reads back as the same; `versions` are noted and not read."""
        values = self.as_dict() | ({"versions": dict(versions)} if versions else {})
        return to_yaml(values)


def adapter(task: OneOf = TASK) -> TypeAdapter[Recipe]:
    """What checks and writes recipes, with the objectives and turns that there are by now, and with these tasks."""
    return _build_adapter((*OBJECTIVES, *TURNS), tuple(task.choices.items()))


def task_adapter(tasks: OneOf) -> TypeAdapter[TaskChoice]:
    """What checks a task alone, of these."""
    return _build_task_adapter(tuple(tasks.choices.items()))


@functools.lru_cache(maxsize=8)
def _build_task_adapter(tasks: tuple[tuple[str, type[Any]], ...]) -> TypeAdapter[TaskChoice]:
    return TypeAdapter(Annotated[TaskChoice, replace(TASK, choices=dict(tasks))])


@functools.cache
def _build_adapter(names: tuple[str, ...], tasks: tuple[tuple[str, type[Any]], ...]) -> TypeAdapter[Recipe]:
    if dict(tasks) == TASK.choices:
        return TypeAdapter(Recipe)
    section = Annotated[TaskChoice, replace(TASK, choices=dict(tasks))]
    kind = make_dataclass("Recipe", [("task", section)], bases=(Recipe,), frozen=True, kw_only=True)
    whole: Any = Annotated[kind, AfterValidator(lambda recipe: Recipe(**vars(recipe)))]
    return TypeAdapter(whole)


def find_tasks(name: Any) -> OneOf:
    """The tasks that `task.name` may be: those that ship, and the user's own if it names one, which is imported.

    Raises:
        UserError: there is no task behind a name of the user's own.
    """
    if isinstance(name, str) and is_own_code(name):
        return TASK.extended(name, find_task(name)[0])
    return TASK
