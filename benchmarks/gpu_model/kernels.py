"""What torch does on CUDA and a CPU build does not know: fused kernels of attention and of the head's blocks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from scorl.estimate.kernels import CountedBlock, keys_of_a_query
from scorl.learner import flex, head_block

__all__ = ["cuda_kernels"]

aten = torch.ops.aten
HALF = (torch.bfloat16, torch.float16)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """`scaled_dot_product_attention`: flash without a mask in half precision, else the memory-efficient kernel."""
    if torch.is_autocast_enabled("cuda"):
        query, key, value = (x.to(torch.get_autocast_dtype("cuda")) for x in (query, key, value))
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    if attn_mask is None and query.dtype in HALF:
        out: Tensor = aten._scaled_dot_product_flash_attention(query, key, value, 0.0, is_causal, False, scale=scale)[0]
        return out
    if enable_gqa:  # this kernel does not know shared keys
        key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], 1) for x in (key, value))
    bias = None if attn_mask is None else _bias(attn_mask, query, key)
    learns = torch.is_grad_enabled() and query.requires_grad
    efficient = aten._scaled_dot_product_efficient_attention
    return efficient(query, key, value, bias, learns, 0.0, is_causal, scale=scale)[0]  # type: ignore[no-any-return]


def _bias(mask: Tensor, query: Tensor, key: Tensor) -> Tensor:
    """A mask as numbers that are added, with rows that begin at multiples of 8."""
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, -math.inf)
    columns = mask.shape[-1]
    if columns % 8:
        mask = F.pad(mask, (0, 8 - columns % 8))[..., :columns]
    return mask.expand(*query.shape[:3], key.shape[2])


def _flex_attention(query: Tensor, key: Tensor, value: Tensor, *, block_mask: Any, scale: Any, **_: Any) -> Tensor:
    """`flex_attention`, at the rates of flash attention: over as many keys a query as its tiles hold on average."""
    keys = min(key.shape[2], keys_of_a_query(block_mask))
    return _attention(query, key[:, :, :keys], value[:, :, :keys], scale=scale)


@contextmanager
def cuda_kernels() -> Iterator[None]:
    """Within, torch attends as on CUDA, and the head's blocks are fused."""
    before: Any = F.scaled_dot_product_attention, flex.ATTEND["cuda"], head_block.BLOCKS["cuda"]
    F.scaled_dot_product_attention = _attention  # type: ignore[assignment]
    flex.ATTEND["cuda"], head_block.BLOCKS["cuda"] = _flex_attention, CountedBlock.of
    try:
        yield
    finally:
        F.scaled_dot_product_attention, flex.ATTEND["cuda"], head_block.BLOCKS["cuda"] = before
