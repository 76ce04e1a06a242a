"""Returns and leave-one-out advantages (RLOO), which every reinforcement objective shares."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from scorl.trajectory import Credit, Group, TrainingExample

__all__ = ["advantages", "credit_attempts", "leave_one_out", "returns"]


def leave_one_out(rewards: Sequence[float]) -> list[float]:
    """Each reward less the mean of the others: an unbiased advantage, neither standardised nor clamped.

    A single reward has no others and is returned as it is (plain REINFORCE).

    >>> leave_one_out([1.0, 0.0, 0.0])
    [1.0, -0.5, -0.5]
    """
    others = len(rewards) - 1
    if others < 1:
        return list(rewards)
    total = sum(rewards)
    return [reward - (total - reward) / others for reward in rewards]


def returns(rewards: Sequence[float], gamma: float) -> list[float]:
    """What each attempt is credited with: its reward, and the later ones discounted by `gamma` a turn.

    >>> returns([0.0, 11.0], 0.0), returns([0.0, 11.0], 0.5)
    ([0.0, 11.0], [5.5, 11.0])
    """
    credited: list[float] = []
    for reward in reversed(rewards):
        credited.append(reward + (gamma * credited[-1] if gamma and credited else 0.0))
    return credited[::-1]


def advantages(group: Group, credited: Sequence[Sequence[float]]) -> list[tuple[float, ...]]:
    """Each attempt's return less the mean over the attempts that it is compared with.

    First attempts are compared across the samples of the problem; one with several branches counts once, with the
    mean return of its branches. Later attempts are compared with their siblings on the same first attempt where
    there are any, else across the group.

    Args:
        group: the samples of one problem.
        credited: the returns of each trajectory's attempts, in the order of the group.
    """
    families: dict[int, list[int]] = {}
    for index, trajectory in enumerate(group):
        families.setdefault(trajectory.sample, []).append(index)
    firsts = leave_one_out([fmean(credited[i][0] for i in family) for family in families.values()])
    branched = len(families) < len(group)
    rows: list[list[float]] = [[] for _ in group]
    for family, first in zip(families.values(), firsts, strict=True):
        for i in family:
            rows[i].append(first)
    for turn in range(1, len(credited[0])):
        for peers in families.values() if branched else [range(len(group))]:
            for i, advantage in zip(peers, leave_one_out([credited[i][turn] for i in peers]), strict=True):
                rows[i].append(advantage)
    return [tuple(row) for row in rows]


def credit_attempts(group: Group, credited: Sequence[Sequence[float]], beta: float) -> list[TrainingExample]:
    """A training example per trajectory: the advantage of each attempt's return, and one KL coefficient for all."""
    rows = zip(group, advantages(group, credited), strict=True)
    return [TrainingExample.of_attempts(trajectory, (Credit(a, beta) for a in row)) for trajectory, row in rows]
