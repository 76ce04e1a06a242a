"""What a vote over K of N samples would give, exactly: the mean over all choices of K, not over a few drawn ones.

Each answer class has a number of samples. For a level c, the choices in which the most votes of any class are c are
counted by a table over the classes (how many samples are chosen, and how many right and wrong classes stand at c); the
classes at c share the credit, which is also the chance of the one among them that was written first. Blank samples
(no answer) are chosen and have no vote.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import numpy as np
from numpy.typing import NDArray

__all__ = ["Votes", "expect_any", "expect_majority"]

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Votes:
    """N samples of a problem, by their final answers."""

    classes: tuple[tuple[int, bool], ...]
    """How many samples give each answer, and whether it is right."""
    blank: int = 0
    """Samples without an answer."""

    @classmethod
    def of(cls, answers: Sequence[str | None], rights: Sequence[bool]) -> Votes:
        """By answers; equal ones are equal strings.

        An answer that is judged both right and wrong (a reward function may look at the text) stands for two.
        """
        counts: dict[tuple[str, bool], int] = {}
        for answer, right in zip(answers, rights, strict=True):
            if answer is not None:
                counts[answer, right] = counts.get((answer, right), 0) + 1
        classes = tuple((count, right) for (_, right), count in counts.items())
        return cls(classes, len(answers) - sum(counts.values()))

    @property
    def size(self) -> int:
        """N."""
        return sum(count for count, _ in self.classes) + self.blank


def expect_majority(votes: Votes) -> Array:
    """How often a majority vote over K of the N samples is right, for K from 0 to N: [N + 1].

    A tie goes to each of its answers alike; no vote at all is wrong.
    """
    credit = sum((_credit_at(votes, level) for level in _levels(votes)), np.zeros(votes.size + 1))
    return credit / _choices(votes.size)


def expect_any(right: int, size: int) -> Array:
    """pass@K: how often K of N samples hold a right one, `right` of the N being so, for K from 0 to N: [N + 1]."""
    none = np.array([comb(size - right, k) for k in range(size + 1)], np.float64)
    return 1 - none / _choices(size)


def _levels(votes: Votes) -> range:
    return range(1, max((count for count, _ in votes.classes), default=0) + 1)


def _choices(size: int) -> Array:
    return np.array([comb(size, k) for k in range(size + 1)], np.float64)


def _credit_at(votes: Votes, level: int) -> Array:
    """The choices of K in which the most votes are `level`, each with the right classes' share of those at it."""
    at = [sum(count >= level and right is kind for count, right in votes.classes) for kind in (True, False)]
    rights, wrongs = (min(classes, votes.size // level) for classes in at)
    if not rights:
        return np.zeros(votes.size + 1)
    table = np.zeros((votes.size + 1, rights + 1, wrongs + 1))
    table[:, 0, 0] = [comb(votes.blank, k) for k in range(votes.size + 1)]
    for count, right in votes.classes:
        table = _add_class(table, count, right, level)
    right_at, wrong_at = np.ogrid[: rights + 1, : wrongs + 1]
    share = right_at / np.maximum(right_at + wrong_at, 1)
    credit: Array = (table * share).sum(axis=(1, 2))
    return credit


def _add_class(table: Array, count: int, right: bool, level: int) -> Array:
    """The table with one more class, which has fewer votes than `level` or stands at it."""
    grown = np.zeros_like(table)
    for votes in range(min(count, level) + 1):
        ways, moved = comb(count, votes), table[: len(table) - votes]
        if votes < level:
            grown[votes:] += ways * moved
        elif right:
            grown[votes:, 1:] += ways * moved[:, :-1]
        else:
            grown[votes:, :, 1:] += ways * moved[:, :, :-1]
    return grown
