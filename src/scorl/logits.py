"""The one place that maps logits to log-probabilities, for sampler, policy and reference alike."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["log_probabilities"]


def log_probabilities(logits: Tensor, temperature: float) -> Tensor:
    """Log-probabilities over the vocabulary at a sampling temperature, in float32.

    Args:
        logits: [..., vocabulary].
        temperature: divides the logits; 0 (greedy) is reported as temperature 1.
    """
    return torch.log_softmax(logits.float() / (temperature or 1.0), dim=-1)
