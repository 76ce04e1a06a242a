"""The learning rate as a function of the step."""

from __future__ import annotations

import math

from scorl.settings import LearnerSettings

__all__ = ["learning_rate"]


def learning_rate(step: int, total: int, settings: LearnerSettings) -> float:
    """The rate of update `step` (from 0) of `total`: linear warm-up, then constant, linear or cosine towards 0.

    >>> settings = LearnerSettings(learning_rate=1.0, warmup_steps=2, lr_scheduler_type="linear")
    >>> [learning_rate(step, 4, settings) for step in range(4)]
    [0.5, 1.0, 1.0, 0.5]
    """
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    share = (step - settings.warmup_steps) / max(1, total - settings.warmup_steps)
    if settings.lr_scheduler_type == "linear":
        return settings.learning_rate * (1 - share)
    if settings.lr_scheduler_type == "cosine":
        return settings.learning_rate * (1 + math.cos(math.pi * share)) / 2
    return settings.learning_rate
