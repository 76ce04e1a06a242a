"""A new objective, as somebody would add it: all of a method that trains its verifications as well.

It is one file, and one line in `OBJECTIVES`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import pstdev

from scorl.objectives import Objective, leave_one_out
from scorl.trajectory import Credit, Group, TrainingExample

__all__ = ["Verified"]


@dataclass(frozen=True)
class Verified(Objective):
    """Every response is paid for its own verdict, and advantages have spread 1 by role, over the whole batch."""

    beta_1: float = 0.01
    """KL coefficient of every response."""

    def __call__(self, group: Group) -> list[TrainingExample]:
        """Advantage of a response: its reward less the mean of its siblings'."""
        columns = [
            leave_one_out([r.reward for r in column]) for column in zip(*(t.responses for t in group), strict=True)
        ]
        rows = zip(group, zip(*columns, strict=True), strict=True)
        return [TrainingExample(t, tuple(Credit(a, self.beta_1) for a in row)) for t, row in rows]

    def over_batch(self, examples: Sequence[TrainingExample]) -> list[TrainingExample]:
        """Divide advantages by their standard deviation among the responses of their role."""
        pairs = [(r.role, c) for e in examples for r, c in zip(e.trajectory.responses, e.credits, strict=True)]
        spread = {role: pstdev(c.advantage for r, c in pairs if r == role) or 1.0 for role, _ in pairs}
        return [
            replace(
                e,
                credits=tuple(
                    replace(c, advantage=c.advantage / spread[r.role])
                    for r, c in zip(e.trajectory.responses, e.credits, strict=True)
                ),
            )
            for e in examples
        ]
