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
    scaled = logits.float() if temperature in (0.0, 1.0) else logits.float() / temperature  # a pass over the vocabulary
    return torch.log_softmax(scaled, dim=-1)
