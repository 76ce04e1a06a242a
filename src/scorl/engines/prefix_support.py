"""Whether a model computes cached rows, and samples that share their prompt, as it computes plain rows."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from scorl.engines.kv_cache import CachedRows, concatenate_rows
from scorl.engines.shared_prefix import cascade_attention
from scorl.errors import UserError
from scorl.model.layers import is_recurrent
from scorl.model.policy import Policy
from scorl.trajectory import user

__all__ = ["check_cached_rows", "try_shared_prefix", "unmaskable_layers", "weight_types"]

_ROUNDING = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Largest difference of logits, relative to their size, that is rounding: SmolLM2's is 1e-6, and in bfloat16 2e-2."""
_QUESTION = "Which of these numbers is the largest: 3, 12 or 7?"
"""What a model has seen the like of: behind tokens that make no sense SmolLM2 rounds by a third in bfloat16."""


def unmaskable_layers(config: Any) -> str | None:
    """Layers that would compute rows with holes between their columns wrongly, in words; None: there are none.

    A window counts columns, not the tokens that the mask leaves, so holes would push tokens out of it. And a state
    cannot be gone back in, while several of transformers' recurrent layers begin anew behind more than one new token.
    """
    if is_recurrent(config):
        return "recurrent layers"
    odd = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    if odd:
        return f"layers of the kind {', '.join(sorted(odd))}"
    windowed = getattr(config, "sliding_window", None) is not None and getattr(config, "use_sliding_window", True)
    return "a sliding window" if windowed else None


def check_cached_rows(policy: Policy) -> None:
    """Compare a token behind the cached rows of two prompts with the model's own forward of the whole rows.

    Raises:
        UserError: they differ, so that what is sampled would not be what the model says.
    """
    for context, dtype in _trials(policy):
        with context:
            try:
                gap = _compare_cached(policy, dtype)
            except (ValueError, TypeError, RuntimeError, AttributeError) as error:  # a cache of its own, say
                raise UserError(
                    f"{policy.path}: this model cannot continue cached rows ({type(error).__name__}: {error}), so it "
                    "cannot be sampled here (engine.name=vllm samples by code of its own)"
                ) from error
        if gap:
            raise UserError(
                f"{policy.path}: behind cached tokens this model computes other logits than for the whole text, by "
                f"{gap}, so it cannot be sampled here (engine.name=vllm samples by code of its own)"
            )


@torch.no_grad()
def _compare_cached(policy: Policy, dtype: torch.dtype) -> str | None:
    """How far the logits behind cached rows are from those of whole rows, if that is more than rounding."""
    ids = _question(policy)
    prompts, last = [ids[:-3], ids[:-1]], torch.tensor([[ids[-3]], [ids[-1]]], device=policy.device)
    parts, whole = [], []
    for prompt, token in zip(prompts, last, strict=True):
        row = torch.tensor([prompt], device=policy.device)
        rows = CachedRows.empty(policy.decoder, row[:, :0])
        rows.extend(policy.decoder, row)
        parts.append((rows, torch.tensor([0])))
        whole.append(policy.decoder(input_ids=torch.cat([row, token[None]], 1), use_cache=False).logits[:, -1])
    return _gap(concatenate_rows(parts).extend(policy.decoder, last), torch.cat(whole), dtype)


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
    for context, dtype in _trials(policy):
        with context:
            if fault := _compare_shared(policy, dtype):
                return fault
    return None


def _trials(policy: Policy) -> Iterator[tuple[torch.autocast, torch.dtype]]:
    """The types to try a policy in: in half precision rounding hides a small fault, so float32 first, where it can."""
    if policy.dtype != torch.float32 and weight_types(policy) == {torch.float32}:
        yield torch.autocast(policy.device.type, enabled=False), torch.float32
    yield policy.precision(), policy.dtype


@torch.inference_mode()
def _compare_shared(policy: Policy, dtype: torch.dtype) -> str | None:
    """What is wrong with the logits behind a shared prompt that are computed in a type; None: nothing."""
    ids = _question(policy)
    prompt, more = (torch.tensor(rows, device=policy.device) for rows in ([ids], [ids[-1:], ids[:1]]))
    both = torch.tensor([0, 0])
    with cascade_attention(policy.decoder):
        rows = CachedRows.empty(policy.decoder, prompt[:, :0])
        rows.extend(policy.decoder, prompt)
        copied = concatenate_rows([(rows, both)]).extend(policy.decoder, more)
        try:
            shared = rows.fork(both).extend(policy.decoder, more)
        except Exception as error:  # a model may refuse in any way; copies remain
            return f"raised {type(error).__name__}: {error}"
    gap = _gap(shared, copied, dtype)
    return f"attends to them otherwise, by {gap}" if gap else None


def _question(policy: Policy) -> tuple[int, ...]:
    """The tokens that are tried, with one more to come."""
    return policy.chat.prompt((user(_QUESTION),))[: (policy.max_positions or sys.maxsize) - 1]


def _gap(one: Tensor, other: Tensor, dtype: torch.dtype) -> str | None:
    """How far logits are apart, relative to their size, if that is more than rounding."""
    # On GPUs products of float32 may have the digits of float16.
    rounds = dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest"
    gap = float((one.float() - other.float()).norm() / other.float().norm())
    return None if gap <= _ROUNDING[torch.float16 if rounds else dtype] else f"{gap:.1%}"
