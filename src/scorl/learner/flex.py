"""Attention over a prefix tree by torch's flex_attention: its mask is a rule of three integers a token, never a matrix.

flex_attention computes tiles of 128 queries and 128 keys. It is told which tiles to leave out and which to compute
without asking the rule; the tree says so from the least and the largest integers in each tile's tokens. On CUDA it is
compiled; on a CPU, where tests hold it against the blocks of `scorl.learner.attention`, torch interprets it and knows
no gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from scorl.learner.tree import Tree

__all__ = ["ATTEND", "TILE", "FlexTree", "flex_attend"]

TILE = 128
"""Tokens in a tile of the mask; a tree is filled up to whole tiles."""
_NOWHERE = 2**30
"""The row of the tokens that fill up: they attend to one another alone."""


@dataclass(frozen=True)
class FlexTree:
    """A tree in whole tiles, for one forward pass of a model and its backward pass."""

    ids: Tensor
    depth: Tensor
    first: Tensor
    last: Tensor
    masks: dict[int | None, BlockMask] = field(default_factory=dict)
    """By sliding window, made when a layer first asks for it."""

    @classmethod
    def fill(cls, tree: Tree) -> FlexTree:
        """A tree with tokens that nobody attends to behind it."""
        more = -len(tree.ids) % TILE
        first, last = (F.pad(row.int(), (0, more), value=_NOWHERE) for row in (tree.first, tree.last))
        return cls(F.pad(tree.ids, (0, more)), F.pad(tree.depth, (0, more)), first, last)

    def mask(self, window: int | None) -> BlockMask:
        """Who attends to whom; `window` is how far back, None: to the beginning."""
        if window not in self.masks:
            self.masks[window] = _make_mask(self.first, self.last, self.depth.int(), window)
        return self.masks[window]


def flex_attend(
    query: Tensor, key: Tensor, value: Tensor, mask: BlockMask, scaling: float | None, softcap: float | None
) -> Tensor:
    """Attention along the paths, [1, heads, tokens, size]; keys and values may have fewer heads, which share them."""
    if torch.is_autocast_enabled(query.device.type):  # it is not among the functions that autocast knows
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    attend = ATTEND.get(query.device.type, flex_attention)
    if query.is_cuda and torch.is_grad_enabled():
        # Backward through shared keys goes over a group's heads one after the other: twice as long (docs/speed.md).
        share = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(share, 1), value.repeat_interleave(share, 1)
    cap = None if softcap is None else _soft_cap(softcap)
    output: Tensor = attend(query, key, value, score_mod=cap, block_mask=mask, scale=scaling, enable_gqa=True)
    return output


def _attend_compiled(*tensors: Tensor, **how: Any) -> Any:
    return _compile_flex()(*tensors, **how)


@cache
def _compile_flex() -> Any:
    return torch.compile(flex_attention)


ATTEND: dict[str, Callable[..., Any]] = {"cpu": flex_attention, "cuda": _attend_compiled}
"""By kind of device; `scorl.estimate` and tests put others in."""


def _soft_cap(limit: float) -> Callable[..., Tensor]:
    def cap(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return limit * torch.tanh(score / limit)

    return cap


def _make_mask(first: Tensor, last: Tensor, depth: Tensor, window: int | None) -> BlockMask:
    """The mask of a tree in whole tiles; nothing in it grows faster than the square of the number of tiles."""

    def rule(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        within = (first[key] <= first[query]) & (first[query] <= last[key]) & (depth[key] <= depth[query])
        return within if window is None else within & (depth[query] - depth[key] < window)

    some, every = _sort_tiles(first, last, depth, window)
    partly, wholly = _list_tiles(some & ~every), _list_tiles(every)
    return BlockMask.from_kv_blocks(*partly, *wholly, BLOCK_SIZE=TILE, mask_mod=rule)


def _sort_tiles(first: Tensor, last: Tensor, depth: Tensor, window: int | None) -> tuple[Tensor, Tensor]:
    """In which tiles some query may attend to some key, and in which all do to all, [tiles, tiles] each.

    The first may say so too often, for the rule is asked there; the second may not, and never is.
    """
    (first_min, first_max), (last_min, last_max), (depth_min, depth_max) = (
        row.view(-1, TILE).aminmax(dim=1) for row in (first, last, depth)
    )
    rows, columns = (slice(None), None), (None, slice(None))  # queries, keys
    some = (first_min[columns] <= first_max[rows]) & (first_min[rows] <= last_max[columns])
    some &= depth_min[columns] <= depth_max[rows]
    every = (first_max[columns] <= first_min[rows]) & (first_max[rows] <= last_min[columns])
    every &= depth_max[columns] <= depth_min[rows]
    if window is not None:
        some &= depth_min[rows] - depth_max[columns] < window
        every &= depth_max[rows] - depth_min[columns] < window
    # Paths lead back: what a token attends to was laid out before it.
    return some.tril(), every


def _list_tiles(tiles: Tensor) -> tuple[Tensor, Tensor]:
    """Of tiles, [queries, keys], how many each row has, [1, 1, queries], and which, first in [1, 1, queries, keys]."""
    which = tiles.int().argsort(dim=1, descending=True, stable=True)
    return tiles.sum(1, dtype=torch.int32)[None, None], which.int()[None, None].contiguous()
