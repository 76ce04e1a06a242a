"""Collected rollouts: what a stage sampled at its start, kept so that a run can resume and another run can use it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from scorl.trajectory import Group, Problem

__all__ = ["MemoryRolloutStore", "RolloutStore"]


class RolloutStore(Protocol):
    """Keeps the groups of (stage, step of the stage)."""

    def read(self, stage: int, index: int, problems: Sequence[Problem]) -> list[Group] | None:
        """What was kept, about these problems, or DamagedError; None: nothing was."""
        ...

    def write(self, stage: int, index: int, steps: int, groups: Sequence[Group]) -> None:
        """Keep the groups of step `index` of a stage that has `steps`."""
        ...


@dataclass(frozen=True)
class MemoryRolloutStore:
    """Keeps them as long as it lives."""

    kept: dict[tuple[int, int], list[Group]] = field(default_factory=dict)

    def read(self, stage: int, index: int, problems: Sequence[Problem]) -> list[Group] | None:
        """See `RolloutStore`."""
        return self.kept.get((stage, index))

    def write(self, stage: int, index: int, steps: int, groups: Sequence[Group]) -> None:
        """See `RolloutStore`."""
        self.kept[stage, index] = list(groups)
