"""Rows as a prefix tree: every distinct token once, however many trajectories pass through it.

A row's tokens beyond what it shares with the rows before it (in sorted order) are its branch. A branch's tokens attend
to the whole path before the branch, which lies in other branches, and to earlier tokens of its own. Three integers a
token say so: of the rows through it in sorted order the first and the last, and its depth. A query attends to a key if
`first[key] <= first[query] <= last[key]` and `depth[key] <= depth[query]`.

On a GPU that is the mask of flex_attention. Elsewhere the branches of like length are computed together, padded;
nothing outside attention sees padding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

__all__ = ["Block", "Blocks", "Tree", "common_length", "make_blocks", "pack_tree"]

_PADDING = 1.25
"""At most so many pairs of query and key in a block, padding included, for each pair that counts."""
_BLOCK = 2**14
"""Pairs of query and key that cost about as much as one more block: fewer are not worth a block of their own."""


@dataclass(frozen=True)
class Block:
    """Branches that are computed together."""

    query: Tensor
    """Where in the tree their tokens lie, [branches, queries]; padded with 0."""
    key: Tensor
    """Where the tokens of their whole paths lie, [branches, keys]; padded with 0."""
    mask: Tensor | None
    """Who attends to whom, [branches, 1, queries, keys]; None: queries are keys, and attend to earlier ones."""

    def to(self, device: torch.device) -> Block:
        """The same on another device."""
        return Block(self.query.to(device), self.key.to(device), None if self.mask is None else self.mask.to(device))


@dataclass(frozen=True)
class Blocks:
    """All branches of a tree."""

    parts: tuple[Block, ...]
    slot: Tensor
    """Where each token lies among the queries of all blocks, laid flat one after the other, [tokens]."""

    def to(self, device: torch.device) -> Blocks:
        """The same on another device."""
        return Blocks(tuple(block.to(device) for block in self.parts), self.slot.to(device))


@dataclass(frozen=True)
class Tree:
    """Distinct tokens, branch after branch; all but the blocks is [tokens]."""

    ids: Tensor
    depth: Tensor
    """Each token's position in its rows."""
    first: Tensor
    """Which row, in sorted order, is the first that each token lies in; the tokens of a branch have it in common."""
    last: Tensor
    """The last one; it lies in all between the two."""
    blocks: Blocks | None = None
    """What attention is computed by; None: by flex_attention."""

    def to(self, device: torch.device) -> Tree:
        """The same on the device that it is computed on, with the blocks that a device without flex_attention wants."""
        blocks = None if device.type == "cuda" else (self.blocks or make_blocks(self)).to(device)
        ids, depth = self.ids.to(device), self.depth.to(device)
        return Tree(ids, depth, self.first.to(device), self.last.to(device), blocks)


def common_length(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two rows begin with in common.

    >>> common_length((1, 2, 3), (1, 2, 4, 5))
    2
    """
    low, high = 0, min(len(one), len(other))
    while low < high:  # halving compares slices, which C does, and not token by token
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def pack_tree(rows: Sequence[tuple[int, ...]], *, shares: bool = True) -> tuple[Tree, list[np.ndarray]]:
    """The tree of some rows, and for each row where its tokens lie in it; if it shares nothing, each is a branch."""
    paths: list[np.ndarray] = [np.empty(0, dtype=np.int64)] * len(rows)
    ids: list[int] = []
    depth: list[np.ndarray] = []
    first: list[np.ndarray] = []
    last = np.empty(sum(map(len, rows)), dtype=np.int64)
    before: tuple[int, ...] = ()
    path = paths[0]
    # In sorted order the row before shares at least as much with a row as any earlier one: one comparison finds where
    # it leaves the tree, and a branch's tokens lie side by side.
    for place, i in enumerate(sorted(range(len(rows)), key=rows.__getitem__)):
        row, common = rows[i], common_length(before, rows[i]) if shares else 0
        path = np.concatenate([path[:common], np.arange(len(ids), len(ids) + len(row) - common)])
        ids += row[common:]
        depth.append(np.arange(common, len(row)))
        first.append(np.full(len(row) - common, place))
        last[path] = place
        before, paths[i] = row, path
    tree = Tree(
        torch.tensor(ids),
        torch.from_numpy(np.concatenate(depth)),
        torch.from_numpy(np.concatenate(first)),
        torch.from_numpy(last[: len(ids)]),
    )
    return tree, paths


def make_blocks(tree: Tree) -> Blocks:
    """The blocks of a tree that lies on the CPU."""
    groups = list(_group_by_size(list(_branches(tree))))
    return Blocks(
        tuple(_make_block(group) for group in groups),
        torch.from_numpy(_slots(groups, len(tree.ids))),
    )


@dataclass(frozen=True)
class _Branch:
    """The tokens of a path from `start` on."""

    start: int
    path: np.ndarray

    @property
    def queries(self) -> int:
        return len(self.path) - self.start


def _branches(tree: Tree) -> Iterator[_Branch]:
    """The branches of a tree in their order."""
    ends = (tree.first.diff().nonzero().flatten() + 1).tolist()
    path = np.empty(0, dtype=np.int64)
    for begin, end in pairwise([0, *ends, len(tree.first)]):
        start = int(tree.depth[begin])
        path = np.concatenate([path[:start], np.arange(begin, end)])
        yield _Branch(start, path)


def _group_by_size(branches: Sequence[_Branch]) -> Iterator[list[_Branch]]:
    """Branches of like size, so that little is padding; those from the root apart, for they need no mask."""
    for root in (True, False):
        group: list[_Branch] = []
        queries = keys = pairs = 0
        chosen = (branch for branch in branches if (branch.start == 0) == root)
        for branch in sorted(chosen, key=lambda branch: (branch.queries, len(branch.path))):
            queries, keys = max(queries, branch.queries), max(keys, len(branch.path))
            pairs += branch.queries * len(branch.path)
            if group and (len(group) + 1) * queries * keys > _PADDING * pairs + _BLOCK:
                yield group
                group, queries, keys = [], branch.queries, len(branch.path)
                pairs = queries * keys
            group.append(branch)
        if group:
            yield group


def _slots(groups: Sequence[Sequence[_Branch]], tokens: int) -> np.ndarray:
    """Where each token lies among the padded queries of all blocks, [tokens]."""
    slot = np.empty(tokens, dtype=np.int64)
    start = 0
    for group in groups:
        width = max(branch.queries for branch in group)
        for branch in group:
            slot[branch.path[branch.start :]] = np.arange(start, start + branch.queries)
            start += width
    return slot


def _make_block(branches: Sequence[_Branch]) -> Block:
    """The block of some branches, padded to the longest."""
    queries = max(branch.queries for branch in branches)
    keys = max(len(branch.path) for branch in branches)
    query = np.zeros((len(branches), queries), dtype=np.int64)
    key = np.zeros((len(branches), keys), dtype=np.int64)
    for i, branch in enumerate(branches):
        query[i, : branch.queries] = branch.path[branch.start :]
        key[i, : len(branch.path)] = branch.path
    if branches[0].start == 0:
        return Block(torch.from_numpy(query), torch.from_numpy(key), None)
    # A padded query is given keys as if it went on, for a row without any key would make its softmax NaN; its output
    # is in no slot, so nobody reads it.
    last = torch.tensor([branch.start for branch in branches])[:, None] + torch.arange(queries)
    mask = torch.arange(keys) <= last[:, None, :, None]
    return Block(torch.from_numpy(query), torch.from_numpy(key), mask)
