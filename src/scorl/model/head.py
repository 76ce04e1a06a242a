"""What a decoder does behind its layers: last hidden states, and logits of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["backbone", "final_logits", "head_is_plain", "hidden_states", "logit_divisor", "logit_softcap"]


def final_logits(decoder: Any, hidden: Tensor) -> Tensor:
    """Logits from the last hidden states, [..., width] -> [..., vocabulary], as the model itself makes them."""
    logits: Tensor = decoder.get_output_embeddings()(hidden) / logit_divisor(decoder)
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


@torch.no_grad()
def head_is_plain(decoder: Any) -> bool:
    """Whether hidden states and `final_logits` give what the model's own forward gives."""
    ids = torch.arange(1, 5, device=decoder.device)[None]
    computed = final_logits(decoder, hidden_states(decoder, ids))
    expected = decoder(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
    return torch.allclose(computed.float(), expected.float(), atol=1e-3, rtol=1e-3)
