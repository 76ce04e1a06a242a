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
from statistics import fmean, pstdev
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Interval

from scorl.objectives.baseline import advantages, credit_responses, returns
from scorl.objectives.objective import Objective, StageShape, needs_second_attempt
from scorl.trajectory import Credit, Group, Role, TrainingExample, Trajectory

__all__ = ["PAG"]


@dataclass(frozen=True)
class PAG(Objective):
    """Pay answers for being right and verifications for being true, each on its own (section 3 of arXiv 2506.10406)."""

    beta_1: Annotated[float, Ge(0)] = 0.0
    """KL coefficient of every response (the paper: none)."""
    alpha: Annotated[float, Ge(0)] = 1.0
    """Weight of the bonus for progress over the attempt before."""
    gamma: Annotated[float, Interval(ge=0, le=1)] = 0.0
    """Discount of later rewards in a response's return, of whatever role; above 0 it pays for saying wrong."""
    scale_rewards: Literal["none", "role"] = "role"
    """`role`: advantages have mean 0 and spread 1 among all answers, and among all verifications, of a step
    (RoleAdvNorm). It belongs to this method: with SCoRe it would cancel alpha."""

    roles: ClassVar[frozenset[Role]] = frozenset({"verification"})

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
        """With advantages normalised by role."""
        if self.scale_rewards == "none":
            return examples
        found: dict[Role, list[float]] = defaultdict(list)
        for example in examples:
            for role, credit in _credited(example):
                found[role].append(credit.advantage)
        shape = {role: (fmean(values), pstdev(values) + 1e-8) for role, values in found.items()}
        return [_normalized(example, shape) for example in examples]

    def problems_with(self, stage: StageShape) -> Iterator[tuple[str, str]]:
        """There is an answer after the verification."""
        yield from needs_second_attempt(stage)


def _credited(example: TrainingExample) -> Iterator[tuple[Role, Credit]]:
    """The roles and credits of the responses that inference comes to."""
    for response, credit in zip(example.trajectory.reached, example.credits, strict=False):
        yield response.role, credit


def _normalized(example: TrainingExample, shape: Mapping[Role, tuple[float, float]]) -> TrainingExample:
    """The example with each advantage less its role's mean, over its role's spread."""
    credits = list(example.credits)
    for place, (role, credit) in enumerate(_credited(example)):
        mean, spread = shape[role]
        credits[place] = replace(credit, advantage=(credit.advantage - mean) / spread)
    return replace(example, credits=tuple(credits))
