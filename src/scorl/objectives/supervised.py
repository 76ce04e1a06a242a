"""Fine-tuning on reference solutions: the usual warm-up for a model that hardly solves anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from scorl.trajectory import Credit, Group, TrainingExample

__all__ = ["Supervised"]


@dataclass(frozen=True)
class Supervised:
    """Imitate each problem's reference solution as the first attempt; nothing is sampled."""

    stage_defaults: ClassVar[Mapping[str, int]] = {"attempts": 1, "samples": 1}

    def __call__(self, group: Group) -> list[TrainingExample]:
        """Imitation weight 1 on every token of the solution, its end token included."""
        return [
            TrainingExample(trajectory, (Credit(imitation=1.0),) * len(trajectory.attempts)) for trajectory in group
        ]
