"""Guards that stop a run which would otherwise train on nonsense without a word."""

from __future__ import annotations

import math

import torch
from torch import nn

from scorl.errors import GuardError

__all__ = ["GRADIENT_FLOOR", "check_gap", "check_moved", "check_reference", "check_trainable", "is_finite"]

_KL_AT_START = 1e-3
"""Nats an attempt; exact KL of equal models is 0 but for rounding."""

GRADIENT_FLOOR = 1e-6
"""Below it a gradient is rounding, and says nothing about whether an update works."""


def check_trainable(parameters: dict[str, nn.Parameter]) -> None:
    """Something must be trainable, and fine enough to be trained."""
    if not parameters:
        raise GuardError("no parameter is trainable: nothing would be learned. Are the adapters' targets right?")
    small = {str(p.dtype) for p in parameters.values() if p.dtype != torch.float32}
    if small:
        raise GuardError(
            f"trainable weights are {', '.join(sorted(small))}: at usual learning rates most updates round to nothing. "
            "Policy keeps them in float32; who changed them?"
        )


def check_reference(kl: list[float | None]) -> None:
    """Before an update parts them the policy is the reference, so their KL must be 0."""
    worst = max((abs(value) for value in kl if value is not None), default=0.0)
    if worst > _KL_AT_START:
        raise GuardError(
            f"the KL to the reference is {worst:.2e} before any update and should be 0: "
            "the reference is not the policy that training starts from"
        )


def check_moved(moved: bool, grad_norm: float, lr: float) -> None:
    """An update with a gradient must change the weights."""
    if not moved and lr > 0:
        raise GuardError(
            f"the weights did not change in an update with gradient norm {grad_norm:.2e} and learning rate {lr:.1e}: "
            "too small a step for the weights' dtype, or the optimiser holds other parameters"
        )


def check_gap(gap: float | None, limit: float) -> None:
    """Sampler and learner must agree on what was sampled."""
    if gap is not None and gap > limit:
        raise GuardError(
            f"sampler and learner disagree by {gap:.3g} on a token's log-probability (mean; at most {limit} allowed): "
            "stale weights in the sampler, another dtype or temperature, or a chat history that was rewritten. "
            "learner.max_logprob_gap sets the limit"
        )


def is_finite(loss: float, grad_norm: float) -> bool:
    """Whether an update may be applied."""
    return math.isfinite(loss) and math.isfinite(grad_norm)
