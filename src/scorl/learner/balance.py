"""Which examples of a step each rank learns from: whole problems, and about as many tokens as the others."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import pairwise

from scorl.learner.batch import training_row
from scorl.learner.tree import common_length
from scorl.trajectory import TrainingExample

__all__ = ["balance", "share_of_rank"]


def share_of_rank(examples: Sequence[TrainingExample], rank: int, ranks: int) -> Sequence[TrainingExample]:
    """One rank's share of the examples that all ranks have.

    The examples of a problem begin alike, and stay together where there are problems enough.
    """
    if ranks == 1:
        return examples
    units: dict[Hashable, list[int]] = {}
    for place, example in enumerate(examples):
        units.setdefault(example.trajectory.problem.id, []).append(place)
    if len(units) < ranks:
        units = {place: [place] for place in range(len(examples))}
    places = list(units.values())
    mine = balance([_tokens([examples[place] for place in unit]) for unit in places], ranks)[rank]
    return [examples[place] for unit in mine for place in places[unit]]


def balance(sizes: Sequence[int], parts: int) -> list[list[int]]:
    """Things of these sizes, by their places, in parts of about the same size: the largest first, each to the smallest.

    >>> balance([3, 9, 4, 2], 2)
    [[1], [0, 2, 3]]
    """
    shares: list[list[int]] = [[] for _ in range(parts)]
    filled = [0] * parts
    for place in sorted(range(len(sizes)), key=lambda place: -sizes[place]):
        least = filled.index(min(filled))
        shares[least].append(place)
        filled[least] += sizes[place]
    return [sorted(share) for share in shares]


def _tokens(examples: Sequence[TrainingExample]) -> int:
    """Distinct ones of a problem's examples: what rows begin with in common counts once, as in a prefix tree."""
    rows = sorted(map(training_row, examples))
    return sum(len(row) - common_length(before, row) for before, row in pairwise([(), *rows]))
