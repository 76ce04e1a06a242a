"""PAG: the policy as its own verifier (arXiv 2506.10406): an answer, a verification of it, and where that says wrong
another answer.

Each response is paid for itself (gamma = 0). With a credit across turns a verification that says wrong earns what
the revision behind it earns, one that says right earns nothing more, and the verifier says wrong always: `gamma: 1`
shows it. The paper learns with PPO and a critic; here the others of the group are the baseline.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import pstdev
from typing import Annotated, Literal

from annotated_types import Ge, Interval

from scorl.objectives.baseline import advantages, credit_responses, returns
from scorl.objectives.objective import VerifyingObjective
from scorl.trajectory import Group, Role, TrainingExample, Trajectory

__all__ = ["PAG"]


@dataclass(frozen=True)
class PAG(VerifyingObjective):
    """Pay answers for being right and verifications for being true, each on its own (section 3 of arXiv 2506.10406)."""

    beta_1: Annotated[float, Ge(0)] = 0.0
    """KL coefficient of every response (the paper: none)."""
    alpha: Annotated[float, Ge(0)] = 1.0
    """Weight of the bonus for progress over the attempt before."""
    gamma: Annotated[float, Interval(ge=0, le=1)] = 0.0
    """Discount of later rewards in a response's return, of whatever role; above 0 it pays for saying wrong."""
    scale_rewards: Literal["none", "role"] = "role"
    """`role`: advantages have spread 1 among the answers of a step, and among its verifications (RoleAdvNorm). It
    belongs to this method: with SCoRe, whose alpha is large, it would scale first answers towards 0."""

    def __call__(self, group: Group) -> list[TrainingExample]:
        """Advantage of a response: its return less the mean of the others that came as far."""
        credited = [returns(self._rewards(t), self.gamma) for t in group]
        return credit_responses(group, advantages(group, credited), self.beta_1)

    def _rewards(self, trajectory: Trajectory) -> list[float]:
        """r of every response that inference comes to, with the bonus on answers after the first."""
        rewards, before = [], None
        for response in trajectory.reached:
            reward = response.reward
            if response.role == "attempt":
                bonus = 0.0 if before is None else self.alpha * (reward - before)
                before, reward = reward, reward + bonus
            rewards.append(reward)
        return rewards

    def over_batch(self, examples: Sequence[TrainingExample]) -> Sequence[TrainingExample]:
        """With advantages divided by their role's spread.

        Their mean is left alone: taking it off would credit groups without a difference.
        """
        if self.scale_rewards == "none":
            return examples
        found: dict[Role, list[float]] = defaultdict(list)
        for example in examples:
            for role, advantage in _trained(example):
                found[role].append(advantage)
        spread = {role: pstdev(values) + 1e-8 for role, values in found.items()}
        return [_scaled(example, spread) for example in examples]


def _trained(example: TrainingExample) -> Iterator[tuple[Role, float]]:
    """The roles and advantages of the responses that are trained; a first one that branches share, once."""
    pairs = [*zip(example.trajectory.reached, example.credits, strict=False)]
    for response, credit in pairs[example.trajectory.branch > 0 :]:
        if not response.offline:
            yield response.role, credit.advantage


def _scaled(example: TrainingExample, spread: Mapping[Role, float]) -> TrainingExample:
    credits = [
        replace(credit, advantage=credit.advantage / spread.get(response.role, 1.0))
        for response, credit in zip(example.trajectory.responses, example.credits, strict=True)
    ]
    return replace(example, credits=tuple(credits))
