"""SCoRe, stage I (Eq. 3) and stage II (Eq. 4) of arXiv 2409.12917.

Rewards are instantaneous (gamma = 0): an attempt's tokens are credited with that attempt's shaped reward alone.
If one number multiplied both attempts, the bonus would pay for wrong first attempts (paper.md, consequence 3).
Dividing advantages by their standard deviation would cancel alpha, so it is not offered.

Beyond two attempts (camera-ready, A.1): stage I rewards the last attempt and holds all earlier ones; each bonus
of stage II is relative to the attempt just before.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from scorl.objectives.baseline import leave_one_out
from scorl.trajectory import Credit, Group, Lesson, Trajectory

__all__ = ["StageOne", "StageTwo", "shaped_rewards"]


@dataclass(frozen=True)
class StageOne:
    """Teach the last attempt while a strict KL keeps the earlier ones near the reference (Eq. 3)."""

    beta_1: float = 0.01
    """KL coefficient of every attempt (left out of the printed equation, stated in its text)."""
    beta_2: float = 0.1
    """Additional KL coefficient of the attempts before the last: 0.1 on MATH, 0.25 on MBPP."""

    def __call__(self, group: Group) -> list[Lesson]:
        """The last attempt gets its reward; the earlier ones get no reward at all, only the KL."""
        advantages = leave_one_out([trajectory.attempts[-1].reward for trajectory in group])
        held = Credit(0.0, self.beta_1 + self.beta_2)
        return [
            Lesson(trajectory, (held,) * (len(trajectory.attempts) - 1) + (Credit(advantage, self.beta_1),))
            for trajectory, advantage in zip(group, advantages, strict=True)
        ]


@dataclass(frozen=True)
class StageTwo:
    """Reward every attempt, with the bonus alpha (r_t - r_{t-1}) on each after the first (Eq. 4)."""

    beta_1: float = 0.01
    """KL coefficient of every attempt."""
    alpha: float = 10.0
    """Weight of the bonus for progress from the attempt just before."""
    baseline: Literal["shaped", "given_before"] = "shaped"
    """`shaped`: leave-one-out over shaped rewards. `given_before`: over them without their part -alpha r_{t-1}, which
    attempt t cannot change any more; the same gradient on average, with less variance (open in the paper)."""

    def __call__(self, group: Group) -> list[Lesson]:
        """Advantage of attempt t: its shaped reward less the mean over the group's other samples."""
        rewards = shaped_rewards if self.baseline == "shaped" else _without_before
        shaped = [rewards(trajectory, self.alpha) for trajectory in group]
        columns = [leave_one_out(column) for column in zip(*shaped, strict=True)]
        return [
            Lesson(trajectory, tuple(Credit(column[i], self.beta_1) for column in columns))
            for i, trajectory in enumerate(group)
        ]


def _without_before(trajectory: Trajectory, alpha: float) -> list[float]:
    """Shaped rewards without the part that is settled before the attempt: r_1, then (1 + alpha) r_t."""
    first, *later = (attempt.reward for attempt in trajectory.attempts)
    return [first, *((1 + alpha) * reward for reward in later)]


def shaped_rewards(trajectory: Trajectory, alpha: float) -> list[float]:
    """The shaped reward of each attempt: r_1, then (1 + alpha) r_t - alpha r_{t-1}."""
    rewards = [attempt.reward for attempt in trajectory.attempts]
    bonus = [alpha * (after - before) for before, after in pairwise(rewards)]
    return [rewards[0]] + [reward + extra for reward, extra in zip(rewards[1:], bonus, strict=True)]
