"""The leave-one-out baseline (RLOO) that every reinforcement objective shares."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["leave_one_out"]


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
