"""Activations that are computed again in the backward pass, layer by layer, so that they need not be kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers.modeling_layers import GradientCheckpointingLayer

from scorl.errors import UserError

__all__ = ["gradient_checkpointing"]


@contextmanager
def gradient_checkpointing(decoder: Any) -> Iterator[None]:
    """Let a model's layers keep their inputs alone, for forward and backward passes within.

    Raises:
        UserError: the model has no layers of that kind.
    """
    layers = [module for module in decoder.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise UserError("learner.gradient_checkpointing: transformers cannot do that with this model")
    enable = getattr(decoder, "activation_checkpointing_enable", None) or decoder.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    try:
        for layer in layers:  # they check that they are being trained; what is inside stays without dropout
            layer.training = True
        yield
    finally:
        for layer in layers:
            layer.training = False
