"""What a task is: problems by split, the wording of the turns, and a judge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from scorl.errors import UserError, nearest
from scorl.tasks.turns import Correction, Turn, Turns
from scorl.trajectory import Problem
from scorl.verifiers import Judge

__all__ = ["Problems", "Task"]


class Problems(Protocol):
    """The problems of one split, endless or finite."""

    def draw(self, count: int, start: int, seed: int) -> list[Problem]:
        """`count` training problems, the first of which is the `start`-th that this run draws.

        A pure function of its arguments: finite splits go through a seeded permutation, epoch by epoch.
        """
        ...

    def take(self, limit: int | None) -> list[Problem]:
        """The first `limit` problems in a fixed order, for evaluation; None: all of a finite split,
        a documented number of an endless one."""
        ...


@dataclass(frozen=True)
class Task:
    """Problems by split, the correction message between two attempts, and a judge."""

    name: str
    splits: Mapping[str, Problems]
    correction: str
    """The message after an attempt: it says that there might be an error, never whether there is one."""
    judge: Judge
    between: Turns = field(default_factory=Correction)
    """What is said between two attempts, one of `TURNS`."""

    def turns(self, attempts: int) -> tuple[Turn, ...]:
        """What is said between so many attempts."""
        return self.between(self.correction, attempts)

    def split(self, name: str) -> Problems:
        """The problems of a split.

        Raises:
            UserError: the task has no such split.
        """
        if name not in self.splits:
            raise UserError(f"task '{self.name}' has no split '{name}': {nearest(name, self.splits)}")
        return self.splits[name]
