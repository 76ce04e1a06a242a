"""REINFORCE with a KL penalty to the reference policy: the base objective of the paper (Eq. 2)."""

from __future__ import annotations

from dataclasses import dataclass

from scorl.objectives.baseline import leave_one_out
from scorl.trajectory import Credit, Group, Lesson

__all__ = ["Reinforce"]


@dataclass(frozen=True)
class Reinforce:
    """Every attempt is credited with its own reward (Eq. 2): single-turn or multi-turn RL by the number of attempts."""

    beta_1: float = 0.01
    """KL coefficient of every attempt."""

    def __call__(self, group: Group) -> list[Lesson]:
        """Advantage of attempt t: r_t less its mean over the group's other samples."""
        turns = range(len(group[0].attempts))
        columns = [leave_one_out([t.attempts[turn].reward for t in group]) for turn in turns]
        return [
            Lesson(trajectory, tuple(Credit(column[i], self.beta_1) for column in columns))
            for i, trajectory in enumerate(group)
        ]
