"""REINFORCE with a KL penalty to the reference policy: the base objective of the paper (Eq. 2)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

from annotated_types import Ge, Interval

from scorl.objectives.baseline import advantages, best_of, credit_attempts, leave_one_out, returns, standardize
from scorl.objectives.objective import Objective, StageShape, pass_k_problems
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
    scale_rewards: Literal["none", "group"] = "none"
    """`group`: advantages are divided by their problem's standard deviation, as GRPO does (the paper: none)."""
    pass_k: Annotated[int, Ge(1)] = 1
    """Above 1, first attempts are paid for pass@k: for what each adds to the best of k."""

    def __call__(self, group: Group) -> list[TrainingExample]:
        """Advantage of attempt t: its return less the mean over what it is compared with (`advantages`)."""
        credited = [returns(self._rewards(t.attempts), self.gamma) for t in group]
        later = standardize if self.scale_rewards == "group" else leave_one_out
        first = later if self.pass_k == 1 else partial(best_of, k=self.pass_k)
        return credit_attempts(group, advantages(group, credited, first=first, later=later), self.beta_1)

    def problems_with(self, stage: StageShape) -> Iterator[tuple[str, str]]:
        """Weights are one for each attempt, and pass@k has a baseline of its own."""
        yield from pass_k_problems(self.pass_k, self.gamma, stage)
        if self.pass_k > 1 and self.scale_rewards == "group":
            yield "scale_rewards", "has a baseline of its own with pass_k, so none, not group"
        if len(self.weights) not in (0, stage.attempts):
            yield "weights", f"takes one for each of the {stage.attempts} attempts, or none, not {len(self.weights)}"

    def _rewards(self, attempts: tuple[Response, ...]) -> list[float]:
        weights = self.weights or (1.0,) * len(attempts)
        return [weight * attempt.reward for weight, attempt in zip(weights, attempts, strict=True)]
