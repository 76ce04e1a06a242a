"""What is to be planned: a model, a recipe's settings, how long its texts are, and the devices."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import ceil
from typing import Literal

from scorl.errors import UserError
from scorl.planning.device import EFFICIENCY, Device, Rates
from scorl.planning.shape import ModelShape
from scorl.settings import Dtype, LearnerSettings, LoraSettings
from scorl.training.stage import Stage

__all__ = ["Lengths", "Parallel", "Response", "Setup"]

Parallel = Literal["ddp", "fsdp2"]
"""Whether every device holds all weights, or a share of them."""


@dataclass(frozen=True)
class Response:
    """One response of a trajectory: what stands before it, and how long it is."""

    asked: float
    """Tokens that ask for it: the first prompt, or what is appended to the turn before."""
    tokens: float
    """Mean tokens, the end token included."""
    longest: float
    """Tokens of the longest one of a step."""
    attempt: bool = True
    """False: a critique, which carries no loss."""


@dataclass(frozen=True)
class Lengths:
    """How long a task's texts are, in tokens."""

    responses: tuple[Response, ...]
    distinct: float = 1.0
    """Share of the responses' tokens that no other trajectory of the problem has in the same place behind the same
    text: the learner computes these alone. 1 is the upper bound."""

    def of(self, attempts: int) -> tuple[Response, ...]:
        """The responses of trajectories with so many attempts.

        Raises:
            UserError: fewer are known.
        """
        ends = [i + 1 for i, response in enumerate(self.responses) if response.attempt]
        if attempts > len(ends):
            raise UserError(f"the lengths are those of {len(ends)} attempts, and {attempts} are planned")
        return self.responses[: ends[attempts - 1]]


@dataclass(frozen=True)
class Setup:
    """All that decides memory and time."""

    shape: ModelShape
    lengths: Lengths
    stages: tuple[Stage, ...]
    device: Device
    dtype: Dtype = "float32"
    lora: LoraSettings | None = None
    learner: LearnerSettings = field(default_factory=LearnerSettings)
    engine: str = "torch"
    batch_size: int = 256
    temperature: float = 1.0
    count: int = 1
    """Devices."""
    parallel: Parallel = "fsdp2"
    """Read where there are several devices."""
    efficiency: float = EFFICIENCY

    @property
    def size(self) -> int:
        """Bytes of a number that is computed with."""
        return 4 if self.dtype == "float32" else 2

    @property
    def trained(self) -> int:
        """Numbers that learn."""
        return self.shape.adapters(self.lora) if self.lora else self.shape.parameters

    @property
    def shards(self) -> int:
        """Into how many parts the weights are divided."""
        return self.count if self.parallel == "fsdp2" else 1

    @property
    def rates(self) -> Rates:
        """What a device reaches."""
        return self.device.rates(self.dtype, self.efficiency)

    def problems(self, stage: Stage) -> int:
        """Problems of a step on the device that has most."""
        return ceil(stage.problems / self.count)

    def with_learner(self, **changes: object) -> Setup:
        """The same with other settings of the learner."""
        return replace(self, learner=replace(self.learner, **changes))  # type: ignore[arg-type]
