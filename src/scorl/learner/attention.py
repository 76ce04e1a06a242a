"""Attention over a prefix tree, through the interface by which transformers' models choose theirs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AttentionInterface

from scorl.learner.flex import FlexTree, flex_attend
from scorl.learner.tree import Block, Blocks, Tree
from scorl.model.head import backbone
from scorl.model.onednn import missing_rows

__all__ = ["tree_attention", "tree_hidden_states"]

_NAME = "scorl_tree"


@contextmanager
def tree_attention(*decoders: Any) -> Iterator[None]:
    """Let models attend along trees: for `tree_hidden_states`, and for backward passes that compute a layer again."""
    before = [decoder.config._attn_implementation for decoder in decoders]
    try:
        for decoder in decoders:
            decoder.set_attn_implementation(_NAME)
        yield
    finally:
        for decoder, name in zip(decoders, before, strict=True):
            decoder.set_attn_implementation(name)


def tree_hidden_states(decoder: Any, tree: Tree) -> Tensor:
    """The last hidden states, [tokens, width], of a tree's tokens; within `tree_attention`."""
    # The tree is one row to every other part of the model. It travels as an argument that transformers hands through to
    # the attention function; positions are depths, so that rotary embeddings are those of the plain rows.
    laid = FlexTree.fill(tree) if tree.blocks is None else tree
    # On a CPU tokens that nobody attends to fill up here what the linear layers would fill up for every product.
    more = 0 if tree.blocks is None else missing_rows(len(laid.ids))
    ids, depth = F.pad(laid.ids, (0, more))[None], F.pad(laid.depth, (0, more))[None]
    hidden: Tensor = backbone(decoder)(input_ids=ids, position_ids=depth, use_cache=False, tree=laid).last_hidden_state
    return hidden[0, : len(tree.ids)]


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    tree: Tree | FlexTree,
    scaling: float | None = None,
    softcap: float | None = None,
    sliding_window: int | None = None,
    **unused: Any,
) -> tuple[Tensor, None]:
    """Attention along the paths, [1, heads, tokens, size] -> [1, tokens, heads, size], as transformers calls it."""
    if isinstance(tree, FlexTree):
        return flex_attend(query, key, value, tree.mask(sliding_window), scaling, softcap).transpose(1, 2), None
    assert tree.blocks is not None
    queries, keys, values = (x[0].transpose(0, 1) for x in (query, key, value))
    half_on_cpu = query.device.type == "cpu" and torch.is_autocast_enabled("cpu")
    if half_on_cpu:  # whose kernel of attention takes twice as long in bfloat16
        queries, keys, values = queries.float(), keys.float(), values.float()
    with torch.autocast("cpu", enabled=False) if half_on_cpu else nullcontext():
        attended = _attend_in_blocks(queries, keys, values, tree, tree.blocks, scaling, softcap, sliding_window)
    return attended[None], None


AttentionInterface.register(_NAME, _attend)


def _attend_in_blocks(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    tree: Tree,
    blocks: Blocks,
    scaling: float | None,
    softcap: float | None,
    window: int | None,
) -> Tensor:
    """Attention along the paths, [tokens, heads, size].

    Every block is dense attention of padded branches to their whole paths: a key is copied into each block that needs
    it. One mask over all tokens would need no copies, and time and memory that grow with the square of the tree.
    """
    outputs = []
    for block in blocks.parts:
        mask = _make_mask(block, tree, window)
        tokens = _gather(queries, block.query), _gather(keys, block.key), _gather(values, block.key)
        outputs.append(_attend_in_block(*tokens, mask, scaling, softcap).flatten(0, 1))
    return _gather(torch.cat(outputs), F.pad(blocks.slot, (0, len(queries) - len(blocks.slot))))


def _gather(tokens: Tensor, index: Tensor) -> Tensor:
    """The tokens, [tokens, heads, size], at some indices, [..., heads, size].

    By an embedding: its backward adds up what falls on the same token in a fixed order, so that runs repeat
    bit-for-bit, and is the fastest that does.
    """
    return F.embedding(index, tokens.flatten(1)).view(*index.shape, *tokens.shape[1:])


def _make_mask(block: Block, tree: Tree, window: int | None) -> Tensor | None:
    """Who attends to whom, [branches, 1, queries, keys]; None: everybody to what is earlier."""
    if window is None or block.key.shape[1] <= window:
        return block.mask
    distance = tree.depth[block.query][:, None, :, None] - torch.arange(block.key.shape[1], device=block.key.device)
    earlier = block.mask if block.mask is not None else distance >= 0
    return earlier & (distance < window)


def _attend_in_block(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None, softcap: float | None
) -> Tensor:
    """Attention of padded branches, [branches, queries, heads, size], to their keys, [branches, keys, groups, size].

    The heads of a group, which share their keys, are folded into the queries: keys are not repeated.
    """
    length, heads, groups = query.shape[1], query.shape[2], key.shape[2]
    share = heads // groups
    # `is_causal` takes no mask, hence the fast kernels, but only while queries and keys are the same tokens in order:
    # folding breaks that order, and a soft cap has no kernel.
    if mask is None and (share > 1 or softcap is not None):
        mask = torch.ones(length, length, dtype=torch.bool, device=query.device).tril()[None, None]
    if mask is not None:
        mask = mask.repeat_interleave(share, 2)
    folded = query.reshape(-1, length, groups, share, query.shape[3]).transpose(1, 2).flatten(2, 3)
    key, value = key.transpose(1, 2), value.transpose(1, 2)
    if softcap is None:
        output = F.scaled_dot_product_attention(
            folded, key, value, attn_mask=mask, is_causal=mask is None, scale=scaling
        )
    else:
        scores = folded @ key.transpose(2, 3) * (query.shape[3] ** -0.5 if scaling is None else scaling)
        scores = torch.tanh(scores / softcap) * softcap
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        output = scores.softmax(-1, dtype=torch.float32).to(value.dtype) @ value
    return output.reshape(-1, groups, length, share, value.shape[3]).transpose(1, 2).flatten(2, 3)
