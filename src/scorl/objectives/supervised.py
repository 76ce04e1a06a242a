"""Fine-tuning on reference solutions: the usual warm-up for a model that hardly solves anything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from scorl.objectives.objective import Objective, Source, StageShape
from scorl.trajectory import Credit, Group, TrainingExample

__all__ = ["Supervised"]


@dataclass(frozen=True)
class Supervised(Objective):
    """Imitate each problem's reference solution as the first attempt; nothing is sampled."""

    source: ClassVar[Source] = "solutions"
    stage_defaults: ClassVar[Mapping[str, int]] = {"attempts": 1, "samples": 1}

    def __call__(self, group: Group) -> list[TrainingExample]:
        """Imitation weight 1 on every token of the solution, its end token included."""
        return [
            TrainingExample(trajectory, (Credit(imitation=1.0),) * len(trajectory.responses)) for trajectory in group
        ]

    def problems_with(self, stage: StageShape) -> Iterator[tuple[str, str]]:
        """One solution a problem, and nothing behind it."""
        for key in self.stage_defaults:
            if (asked := getattr(stage, key)) != 1:
                yield key, f"learns one reference solution a problem, so 1, not {asked}"
