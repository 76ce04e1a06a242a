"""Whether a model computes rows with holes, and samples that share their prompt, as it computes plain rows."""

from __future__ import annotations

from typing import Any

import torch

from scorl.engines.kv_cache import CachedRows, concatenate_rows
from scorl.engines.shared_prefix import cascade_attention
from scorl.model.policy import Policy

__all__ = ["try_shared_prefix", "unmaskable_layers"]


def unmaskable_layers(config: Any) -> str | None:
    """Layers that would compute rows with holes between their columns wrongly, in words; None: there are none.

    A window counts columns, not the tokens that the mask leaves, so holes would push tokens out of it.
    """
    odd = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    if odd:
        return f"layers of the kind {', '.join(sorted(odd))}"
    windowed = getattr(config, "sliding_window", None) is not None and getattr(config, "use_sliding_window", True)
    return "a sliding window" if windowed else None


def try_shared_prefix(policy: Policy) -> str | None:
    """Compare a shared prompt with a copied one; why samples cannot share theirs, in words, or None: they can."""
    config = policy.decoder.config.get_text_config()
    if layers := unmaskable_layers(config):
        return f"has {layers}"
    if config._attn_implementation != "sdpa":
        return f"attends by '{config._attn_implementation}', not 'sdpa'"
    prompt, more = torch.tensor([[1, 2, 3]], device=policy.device), torch.tensor([[2], [3]], device=policy.device)
    both = torch.tensor([0, 0], device=policy.device)
    with torch.inference_mode(), policy.precision(), cascade_attention(policy.decoder):
        rows = CachedRows(prompt[:, :0])
        rows.extend(policy.decoder, prompt)
        copied = concatenate_rows([(rows, both)]).extend(policy.decoder, more)
        try:
            shared = rows.fork(both).extend(policy.decoder, more)
        except Exception as error:  # a model may refuse in any way; copies remain
            return f"raised {type(error).__name__}: {error}"
    same = torch.allclose(copied.float(), shared.float(), atol=1e-3, rtol=1e-3)
    return None if same else "attends to them otherwise"
