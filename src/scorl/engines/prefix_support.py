"""Whether a model computes rows with holes, and samples that share their prompt, as it computes plain rows."""

from __future__ import annotations

from typing import Any

import torch

from scorl.engines.kv_cache import CachedRows, concatenate_rows
from scorl.engines.shared_prefix import cascade_attention
from scorl.model.policy import Policy
from scorl.trajectory import user

__all__ = ["try_shared_prefix", "unmaskable_layers", "weight_types"]

_ROUNDING = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Largest difference of logits, relative to their size, that is rounding: SmolLM2's is 1e-6, and in bfloat16 2e-2."""
_QUESTION = "Which of these numbers is the largest: 3, 12 or 7?"
"""What a model has seen the like of: behind tokens that make no sense SmolLM2 rounds by a third in bfloat16."""


def unmaskable_layers(config: Any) -> str | None:
    """Layers that would compute rows with holes between their columns wrongly, in words; None: there are none.

    A window counts columns, not the tokens that the mask leaves, so holes would push tokens out of it.
    """
    odd = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    if odd:
        return f"layers of the kind {', '.join(sorted(odd))}"
    windowed = getattr(config, "sliding_window", None) is not None and getattr(config, "use_sliding_window", True)
    return "a sliding window" if windowed else None


def weight_types(policy: Policy) -> frozenset[torch.dtype]:
    """The types that the model's weights are held in now; linear layers may differ from embeddings and norms."""
    return frozenset(p.dtype for p in policy.decoder.parameters() if p.is_floating_point())


def try_shared_prefix(policy: Policy) -> str | None:
    """Compare a shared prompt with a copied one; why samples cannot share theirs, in words, or None: they can.

    In half precision rounding hides a small fault, so that weights that are all held in float32 are tried in it too.
    """
    config = policy.decoder.config.get_text_config()
    if layers := unmaskable_layers(config):
        return f"has {layers}"
    if config._attn_implementation != "sdpa":
        return f"attends by '{config._attn_implementation}', not 'sdpa'"
    fault = None
    if policy.dtype != torch.float32 and weight_types(policy) == {torch.float32}:
        with torch.autocast(policy.device.type, enabled=False):
            fault = _compare_shared(policy, torch.float32)
    with policy.precision():
        return fault or _compare_shared(policy, policy.dtype)


@torch.inference_mode()
def _compare_shared(policy: Policy, dtype: torch.dtype) -> str | None:
    """What is wrong with the logits behind a shared prompt that are computed in a type; None: nothing."""
    ids = policy.chat.prompt((user(_QUESTION),))
    prompt, more = (torch.tensor(rows, device=policy.device) for rows in ([ids], [ids[-1:], ids[:1]]))
    both = torch.tensor([0, 0])
    with cascade_attention(policy.decoder):
        rows = CachedRows.empty(prompt[:, :0])
        rows.extend(policy.decoder, prompt)
        copied = concatenate_rows([(rows, both)]).extend(policy.decoder, more).float()
        try:
            shared = rows.fork(both).extend(policy.decoder, more).float()
        except Exception as error:  # a model may refuse in any way; copies remain
            return f"raised {type(error).__name__}: {error}"
    # On GPUs products of float32 may have the digits of float16.
    rounds = dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest"
    gap = float((shared - copied).norm() / copied.norm())
    return None if gap <= _ROUNDING[torch.float16 if rounds else dtype] else f"attends to them otherwise, by {gap:.1%}"
