"""The kernels that a GPU would run, for hollow tensors: flex_attention over its tiles, the fused head by its passes.

Hollow tensors seem to lie on the CPU, whose ways the learner would go; within `gpu_kernels` it goes a GPU's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import Tensor
from torch.nn import functional as F

from scorl.learner import flex, head_block
from scorl.learner.head_block import Logits

__all__ = ["CountedBlock", "gpu_kernels", "keys_of_a_query"]


@contextmanager
def gpu_kernels() -> Iterator[None]:
    """Within, what lies on the CPU is computed as on a GPU, at its costs; numbers mean nothing."""
    before = flex.ATTEND["cpu"], head_block.BLOCKS["cpu"]
    flex.ATTEND["cpu"], head_block.BLOCKS["cpu"] = _attend, CountedBlock.of
    try:
        yield
    finally:
        flex.ATTEND["cpu"], head_block.BLOCKS["cpu"] = before


def keys_of_a_query(block_mask: Any) -> int:
    """How many keys a query attends to on average, in whole tiles."""
    tiles = block_mask.kv_num_blocks
    if block_mask.full_kv_num_blocks is not None:
        tiles = tiles + block_mask.full_kv_num_blocks
    size = block_mask.BLOCK_SIZE[0]
    keys: float = float(tiles.sum()) * size / tiles.shape[-1]
    return max(1, round(keys))


def _attend(query: Tensor, key: Tensor, value: Tensor, *, block_mask: Any, scale: Any, **_: Any) -> Tensor:
    keys = min(key.shape[2], keys_of_a_query(block_mask))
    share = query.shape[1] // key.shape[1]
    key, value = (x[:, :, :keys].repeat_interleave(share, 1) for x in (key, value))
    return F.scaled_dot_product_attention(query, key, value, scale=scale)


class CountedBlock(NamedTuple):
    """A block of the head that costs as many passes over the products as a fused one (`scorl.learner.head_block`)."""

    policy: Logits
    reference: Logits | None
    chosen: Tensor
    ref_chosen: Tensor | None
    kl: Tensor | None

    @classmethod
    def of(cls, policy: Logits, reference: Logits | None, target: Tensor, exact_kl: bool) -> CountedBlock:
        """A pass for each sum of exponentials, and one for the KL."""
        chosen = policy.product.amax(-1).float()
        if reference is None:
            return cls(policy, None, chosen, None, None)
        ref_chosen = reference.product.amax(-1).float()
        kl = policy.product.amax(-1).float() + reference.product.amax(-1).float() if exact_kl else None
        return cls(policy, reference, chosen, ref_chosen, kl)

    def logit_gradient(self, *_: Any) -> Tensor:
        """One pass."""
        return self.policy.product.neg() if self.reference is None else self.policy.product + self.reference.product
