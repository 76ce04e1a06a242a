"""REINFORCE with a KL penalty to the reference policy: the base objective of the paper (Eq. 2)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Interval

from scorl.objectives.baseline import credit_attempts, returns
from scorl.objectives.objective import Objective, StageShape
from scorl.trajectory import Group, Response, TrainingExample

__all__ = ["Reinforce"]


@dataclass(frozen=True)
class Reinforce(Objective):
    """Every attempt is credited with its own reward (Eq. 2): single-turn or multi-turn RL by the number of attempts."""

    beta_1: Annotated[float, Ge(0)] = 0.01
    """KL coefficient of every attempt."""
    weights: tuple[float, ...] = ()
    """Weight of each attempt's reward; empty: 1 each. `[1, 0]` pays the first attempt alone, `[0, 1]` the second."""
    gamma: Annotated[float, Interval(ge=0, le=1)] = 0.0
    """Discount of later rewards in an attempt's return; 1 pays every attempt the joint reward (the paper: 0)."""

    def __call__(self, group: Group) -> list[TrainingExample]:
        """Advantage of attempt t: its return less the mean over what it is compared with (`advantages`)."""
        return credit_attempts(group, [returns(self._rewards(t.attempts), self.gamma) for t in group], self.beta_1)

    def problems_with(self, stage: StageShape) -> Iterator[tuple[str, str]]:
        """Weights are one for each attempt."""
        if len(self.weights) not in (0, stage.attempts):
            yield "weights", f"takes one for each of the {stage.attempts} attempts, or none, not {len(self.weights)}"

    def _rewards(self, attempts: tuple[Response, ...]) -> list[float]:
        weights = self.weights or (1.0,) * len(attempts)
        return [weight * attempt.reward for weight, attempt in zip(weights, attempts, strict=True)]
