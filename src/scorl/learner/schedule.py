"""The learning rate as a function of the step."""

from __future__ import annotations

import math

from scorl.settings import LearnerSettings

__all__ = ["learning_rate"]


def learning_rate(step: int, total: int, settings: LearnerSettings) -> float:
    """The rate of update `step` (from 0) of `total`: linear warm-up, then constant, linear or cosine towards 0.

    >>> [learning_rate(s, 4, LearnerSettings(lr=1.0, warmup=2, schedule="linear")) for s in range(4)]
    [0.5, 1.0, 1.0, 0.5]
    """
    if step < settings.warmup:
        return settings.lr * (step + 1) / settings.warmup
    share = (step - settings.warmup) / max(1, total - settings.warmup)
    if settings.schedule == "linear":
        return settings.lr * (1 - share)
    if settings.schedule == "cosine":
        return settings.lr * (1 + math.cos(math.pi * share)) / 2
    return settings.lr
