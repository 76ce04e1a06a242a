"""What a decoder does behind its layers: last hidden states, and logits of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from transformers.modeling_outputs import MoeModelOutputWithPast

__all__ = [
    "HeadKind",
    "backbone",
    "final_logits",
    "find_head",
    "hidden_states",
    "logit_divisor",
    "logit_softcap",
    "own_logits",
]


HeadKind = Literal["linear", "own"]
"""How logits come about behind the layers: by a linear head, a scale and a soft cap, or in the model's own way."""


def final_logits(decoder: Any, hidden: Tensor) -> Tensor:
    """Logits from the last hidden states, [..., width] -> [..., vocabulary], as the model itself makes them."""
    linear = decoder.get_output_embeddings()
    logits: Tensor = linear(hidden.to(linear.weight.dtype)) / logit_divisor(decoder)  # Mamba's residuals are float32
    cap = logit_softcap(decoder)
    return logits if cap is None else torch.tanh(logits / cap) * cap


def logit_softcap(decoder: Any) -> float | None:
    """What a model's logits are held below by a tanh; None: nothing."""
    cap: float | None = getattr(decoder.config, "final_logit_softcapping", None)
    return cap


def logit_divisor(decoder: Any) -> float:
    """What a model divides its logits by: Granite's `logits_scaling`; Cohere and Falcon-H1 have factors instead."""
    config = decoder.config
    factor = getattr(config, "logit_scale", None) or getattr(config, "lm_head_multiplier", None) or 1.0
    return float(getattr(config, "logits_scaling", None) or 1 / factor)


def backbone(decoder: Any) -> Any:
    """The model without its head; Llama 4's is not where its class says."""
    return decoder.model if decoder.base_model is decoder else decoder.base_model


def hidden_states(decoder: Any, ids: Tensor) -> Tensor:
    """The last hidden states, [rows, tokens, width], of right-padded rows; those at padding mean nothing.

    Nothing attends to what stands behind it, so padding needs no mask, and attention takes its fast kernels.
    """
    hidden: Tensor = backbone(decoder)(input_ids=ids, use_cache=False).last_hidden_state
    return hidden


@dataclass
class _LayersOutput(MoeModelOutputWithPast):  # type: ignore[misc]
    """What a model without its head returns, of whatever family."""

    cache_params: Any = None


def own_logits(decoder: Any, hidden: Tensor) -> Tensor:
    """Logits of last hidden states, [tokens, width] -> [tokens, vocabulary], by the model's own forward without layers.

    Slower than `final_logits`, and right for every head that looks at one token after the other.
    """
    body, ids = backbone(decoder), hidden.new_zeros(1, len(hidden), dtype=torch.long)
    body.forward = lambda *_, **__: _LayersOutput(last_hidden_state=hidden[None])
    try:
        logits: Tensor = decoder(input_ids=ids, use_cache=False).logits[0]
    finally:
        del body.forward  # the class's own is there again
    return logits


@torch.no_grad()
def find_head(decoder: Any) -> HeadKind | None:
    """What gives the logits that the model's own forward gives: `final_logits`, or `own_logits`; None: neither."""
    ids = torch.arange(1, 5, device=decoder.device)[None]
    expected = decoder(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[0].float()
    hidden = hidden_states(decoder, ids)[0]
    ways: dict[HeadKind, Callable[[Any, Tensor], Tensor]] = {"linear": final_logits, "own": own_logits}
    for kind, compute in ways.items():
        try:
            computed = compute(decoder, hidden).float()
        except (AttributeError, TypeError, RuntimeError):  # whatever else its forward wants of the layers
            continue
        if computed.shape == expected.shape and torch.allclose(computed, expected, atol=1e-3, rtol=1e-3):
            return kind
    return None
