"""Splits without end: problems that are made up as they are asked for, from named streams of random numbers."""

from __future__ import annotations

from scorl.trajectory import Problem

__all__ = ["Endless"]

TAKEN = 500
"""Problems of an evaluation that names no number."""
REPEATS = 2000
"""Problems in a row that were there before, after which a split is taken to hold no more."""


class Endless:
    """The problems of one split of a task that makes them up; a task says how one is picked."""

    def pick(self, *stream: int | str) -> Problem:
        """The first random problem of this split in the stream of that name."""
        raise NotImplementedError

    def draw(self, count: int, start: int, seed: int) -> list[Problem]:
        """Problems number `start` to `start + count - 1` of the endless stream that `seed` names."""
        return [self.pick("draw", seed, position) for position in range(start, start + count)]

    def take(self, limit: int | None = None) -> list[Problem]:
        """The first `limit` (None: 500) of a fixed list of distinct problems; all, where the split holds fewer."""
        wanted = TAKEN if limit is None else limit
        problems: dict[str, Problem] = {}
        position = repeats = 0
        while len(problems) < wanted and repeats <= REPEATS:
            problem = self.pick("take", position)
            repeats = repeats + 1 if problem.id in problems else 0
            problems.setdefault(problem.id, problem)
            position += 1
        return list(problems.values())
