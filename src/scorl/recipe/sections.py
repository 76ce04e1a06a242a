"""The sections of a recipe as frozen dataclasses; the text under a field is its help in the JSON schema."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import yaml

from scorl.settings import (
    Checkpoints,
    Evaluations,
    LearnerSettings,
    ModelSettings,
    ScriptedSettings,
    TorchSettings,
    VllmSettings,
)
from scorl.tasks import TASKS
from scorl.tasks.task import Task
from scorl.tasks.turns import CRITIQUE, REWRITE
from scorl.training.stage import Stage

__all__ = [
    "EngineSettings",
    "LauncherSettings",
    "ModelSettings",
    "Recipe",
    "TaskChoice",
    "TurnSettings",
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

    name: Literal["correction", "self_refine"] = "correction"
    """`correction` says that there might be an error; `self_refine` asks for a critique, then for another attempt."""
    correction: str | None = None
    """The correction message; null: the task's own wording."""
    critique: str = CRITIQUE
    """What asks for the critique; read by self_refine."""
    rewrite: str = REWRITE
    """What asks for the attempt after the critique; read by self_refine."""

    def of(self, task: Task) -> Task:
        """The task with these turns."""
        refine = (self.critique, self.rewrite) if self.name == "self_refine" else None
        return replace(task, correction=self.correction or task.correction, refine=refine)


@dataclass(frozen=True)
class EngineSettings:
    """What writes the attempts in training."""

    name: Literal["torch", "vllm", "scripted"] = "torch"
    """`torch` samples from the policy; `vllm` from a vLLM server, which is sent the policy's weights (docs/vllm.md;
    set learner.importance_sampling_cap); `scripted` gives canned answers, for trying things out (the learner disagrees
    about their probability, so raise learner.max_logprob_gap)."""
    temperature: float = 1.0
    """Sampling temperature of training (stated: 1.0); the learner uses the same."""
    max_tokens: int = 256
    """The longest response in tokens (open)."""
    batch_size: int = 256
    """The most rows decoded at once; results on a CPU do not depend on it."""
    answers: str | None = None
    """The scripted engine's JSONL file of `prompt_contains` and `response`."""
    vllm: VllmSettings | None = None
    """The settings of `name: vllm`; null: their defaults."""

    @property
    def settings(self) -> Any:
        """The named engine's own settings dataclass."""
        return {
            "torch": TorchSettings(self.batch_size),
            "scripted": ScriptedSettings(self.answers or ""),
            "vllm": replace(self.vllm or VllmSettings(), batch_size=self.batch_size),
        }[self.name]


@dataclass(frozen=True)
class LauncherSettings:
    """Where the run runs, and on how many processes; a run may go on elsewhere than it began (docs/scaling.md)."""

    name: Literal["local", "torchrun", "ray"] = "local"
    """`local`: the process that was started (or those that one's own torchrun has started); `torchrun` starts
    processes on this machine; `ray` on a Ray cluster, and again when one is lost."""
    workers: int | None = None
    """Processes that learn, each on a GPU of its own where there are GPUs; null: as many as there are."""
    parallel: Literal["ddp", "fsdp2"] = "ddp"
    """What each of several processes keeps of the model: all of it (`ddp`), or a share, for models that do not
    fit (`fsdp2`)."""
    timeout: float = 1800.0
    """Seconds that a process waits for the others before the run ends."""
    restarts: int = 3
    """How often `ray` starts all processes again, from the newest checkpoint, after one was lost."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a run."""

    model: ModelSettings
    task: TaskChoice
    stages: tuple[Stage, ...]
    seed: int = 0
    turns: TurnSettings = field(default_factory=TurnSettings)
    engine: EngineSettings = field(default_factory=EngineSettings)
    learner: LearnerSettings = field(default_factory=LearnerSettings)
    evaluation: Evaluations = field(default_factory=Evaluations)
    checkpoint: Checkpoints = field(default_factory=Checkpoints)
    launcher: LauncherSettings = field(default_factory=LauncherSettings)
    loggers: tuple[str, ...] = ()

    @property
    def steps(self) -> int:
        """The steps of all stages together."""
        return sum(stage.steps for stage in self.stages)

    def as_dict(self) -> dict[str, Any]:
        """The recipe in the shape of its YAML, every default written out."""
        special = {
            "seed": self.seed,
            "task": {"name": self.task.name, "split": self.task.split, **asdict(self.task.settings)},
            "stages": [_flat(stage) for stage in self.stages],
            "loggers": self.loggers,
        }
        return {name: _plain(special[name] if name in special else asdict(getattr(self, name))) for name in ORDER}

    def dump(self, versions: Mapping[str, str] | None = None) -> str:
        """The recipe as YAML that `resolve` reads back as the same; `versions` are noted and not read."""
        values = self.as_dict() | ({"versions": dict(versions)} if versions else {})
        return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=110)


ORDER = tuple(
    "seed model task turns engine learner stages evaluation checkpoint launcher loggers".split()  # noqa: SIM905
)
"""The order in which a recipe is written."""


def _flat(stage: Stage) -> dict[str, Any]:
    """A stage as it stands in YAML: the objective's settings beside the stage's own."""
    own = asdict(stage) | {"objective": stage.objective_name}
    return own | asdict(stage.objective)


def _plain(value: Any) -> Any:
    """The value with lists for tuples, as YAML has them."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value
