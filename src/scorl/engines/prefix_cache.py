"""The cache of rows that have ended, which the next turn continues."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import takewhile

import torch

from scorl.engines.kv_cache import CachedRows
from scorl.engines.shared_prefix import SharedPrefix

__all__ = ["PrefixCache"]

_ROW_BYTES = 3 * 8
"""Of a row's integers: how many columns it has, its position, its prompt."""


class PrefixCache:
    """Rows that have ended, looked up by their tokens when the next turn continues them.

    Sorted by tokens and bisected: a turn adds all of its rows before the next one asks, so one sort does, and no tree
    of tokens has to be kept.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        """Bytes of all tensors in here; rows beyond it are not cached, and are computed again."""
        self.held = 0
        """Bytes so far."""
        self._entries: list[tuple[tuple[int, ...], CachedRows, int]] = []
        self._untrimmed: list[CachedRows] = []
        """Rows whose prefix still is that of the running batch, with the prompts of all of its rows."""
        self._prompts: set[int] = set()
        """Which of that prefix they continue."""

    def add(self, rows: CachedRows, places: Sequence[int], tokens: Sequence[tuple[int, ...]]) -> None:
        """Cache copies of some rows of a batch, whose computed tokens are these; none where all are too much.

        A shared prompt counts once for all rows that are added while the batch has the same prefix.
        """
        if self._untrimmed and not _have_same_prompts(self._untrimmed[0].prefix, rows.prefix):
            self._trim_prefix()
        chosen = torch.tensor(places)
        first = rows.first_column(chosen)
        columns = rows.mask.shape[1] - first
        size = len(chosen) * (columns * (rows.column_bytes + rows.mask.element_size()) + _ROW_BYTES)
        prompts: set[int] = set()
        if rows.prefix:
            prompts, mask = set(rows.prefix.prompt[chosen].tolist()), rows.prefix.mask
            size += len(prompts - self._prompts) * mask.shape[1] * (rows.column_bytes + mask.element_size())
        if self.held + size > self.limit:
            return
        self.held += size
        copies = rows.select(chosen, first)
        self._entries += [(ids, copies, place) for place, ids in enumerate(tokens)]
        if copies.prefix:
            self._untrimmed.append(copies)
            self._prompts |= prompts

    def finish(self) -> None:
        """Make what was added ready to be found; nothing is added afterwards."""
        self._trim_prefix()
        self._entries.sort(key=lambda entry: entry[0])

    def _trim_prefix(self) -> None:
        """Copy the prompts that cached rows continue, once for all of them, and let go of the batch's others.

        Only when the batch lets go of them too: until then they take no memory here.
        """
        prefixes = [rows.prefix for rows in self._untrimmed if rows.prefix]
        if prefixes:
            every = torch.cat([prefix.prompt for prefix in prefixes])
            trimmed = SharedPrefix(prefixes[0].layers, prefixes[0].mask, every).drop_unused()
            numbers = torch.split(trimmed.prompt, [len(prefix.prompt) for prefix in prefixes])
            for rows, prompt in zip(self._untrimmed, numbers, strict=True):
                rows.prefix = SharedPrefix(trimmed.layers, trimmed.mask, prompt)
        self._untrimmed, self._prompts = [], set()

    def find(self, prompt: tuple[int, ...]) -> tuple[int, CachedRows, int] | None:
        """The longest cached prefix of a prompt, which at least one token follows: its length, its batch, its row.

        The greatest cached tokens that are not above the prompt share more of it than any other; where they are no
        prefix of it, a prefix of it is one of what they share.
        """
        wanted = prompt[:-1]  # a token must be left to compute, or there would be no logits to draw from
        while place := bisect_right(self._entries, wanted, key=lambda entry: entry[0]):
            tokens, rows, row = self._entries[place - 1]
            common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(tokens, wanted, strict=False)))
            if common == len(tokens):
                return common, rows, row
            wanted = wanted[:common]
        return None


def _have_same_prompts(one: SharedPrefix | None, other: SharedPrefix | None) -> bool:
    return one is not None and other is not None and one.layers is other.layers
