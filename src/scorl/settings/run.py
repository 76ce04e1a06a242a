"""Settings of what stands around training: evaluation, checkpoints, loggers, the GPU that is planned for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Interval

from scorl.settings.model import Dtype

__all__ = ["MOST", "CheckpointSettings", "Count", "EvaluationSettings", "Gpu", "LoggerName", "LoggingSettings"]

MOST = 1_000_000
"""Problems, samples, attempts and the like at once: more than this would fill the memory, or take for ever."""
Count = Annotated[int, Interval(ge=1, le=MOST)]
"""How many of these."""
Gpu = Literal["4090", "a100-40", "a100-80", "h100", "h200", "l4"]
"""GPUs that `scorl plan` knows."""


LoggerName = Literal["tensorboard", "wandb", "trackio", "mlflow"]
"""Loggers, which are named as their packages."""


@dataclass(frozen=True)
class LoggingSettings:
    """What is logged, and what the loggers call the run; nothing that is computed depends on it."""

    project: str | None = None
    """The project (MLflow: the experiment); null: what WANDB_PROJECT, TRACKIO_PROJECT or MLFLOW_EXPERIMENT_NAME says,
    else `scorl`."""
    run_name: str | None = None
    """The run's name; null: that of its directory."""
    entity: str | None = None
    """The team or user of Weights & Biases; null: one's own."""
    group: str | None = None
    """What the run is shown together with, say the seeds of one experiment."""
    tags: tuple[str, ...] = ()
    """By which Weights & Biases and MLflow find the run."""
    problems: Annotated[int, Interval(ge=0, le=MOST)] = 8
    """The first held-out problems whose attempts the loggers get as a table with each evaluation; 0: none."""
    compress_attempts: bool = False
    """Whether the run directory keeps attempts as .jsonl.gz, a tenth of the size or less."""
    attempts_total_limit: Annotated[int, Ge(1)] | None = None
    """The last steps whose attempts are kept; null: all. The held-out attempts all stay."""


@dataclass(frozen=True)
class EvaluationSettings:
    """When and how the policy is evaluated during a run."""

    eval_steps: Annotated[int, Ge(0)] = 0
    """Steps between evaluations; 0: only before the first and after the last step."""
    problems: Count | None = 200
    """Held-out problems; null: all of the split."""
    temperature: Annotated[float, Interval(ge=0, le=100)] = 0.0
    """0 is greedy, as in the paper."""
    samples: Count = 1
    """Samples per problem; more than one only makes sense at a temperature above 0."""
    split: str = "test"
    """The task's split."""
    fixed: bool = False
    """Also measure the second attempts on the reference's first ones: correction without the shift of one's own."""


@dataclass(frozen=True)
class CheckpointSettings:
    """When the run is saved, and how much of it stays."""

    save_steps: Annotated[int, Ge(1)] = 50
    """Steps between checkpoints; the end of a run and Ctrl-C save as well."""
    save_total_limit: Annotated[int, Ge(1)] = 3
    """The last ones kept, besides the best by training reward."""
    state_total_limit: Annotated[int, Ge(1)] = 2
    """The last ones that keep the trainer's state, three times the weights that are trained; a run resumes from these
    alone. The second is for when the first is damaged."""
    save_dtype: Dtype | None = None
    """The type of the weights in the Hugging Face folder; null: as they are trained, so float32. The trainer's state,
    from which a run resumes, does not depend on it."""
    async_save: bool = False
    """Write checkpoints while the run goes on, from a copy in the host's memory; the copying alone takes time. A
    checkpoint still gets its name only when all of it is on the disk, and the end of the run waits for that."""
