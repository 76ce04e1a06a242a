"""Keys and values of a batch of rows, and the cache of rows that later turns continue.

A row's tokens lie in order, but not side by side: the mask says which columns are its own, so that rows of different
histories can share one batch. Positions are counted along the mask.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from scorl.engines.shared_prefix import SharedPrefix, concatenate_prefixes

__all__ = ["BufferedLayer", "CachedRows", "PrefixCache", "concatenate_rows"]

SPARE_COLUMNS = 64
"""Columns that a buffer has free at its end, at least."""


class BufferedLayer(DynamicLayer):  # type: ignore[misc]
    """A layer's keys and values in buffers with free columns at their end.

    transformers' own cache concatenates, which copies all columns for every token; here a token is written in place.
    `keys` and `values` are views, [rows, heads, columns, size], of the buffers.
    """

    keys: Tensor
    values: Tensor
    _buffers: tuple[Tensor, Tensor]

    def __init__(self, keys: Tensor | None = None, values: Tensor | None = None, columns: int = 0) -> None:
        super().__init__()
        if keys is not None and values is not None:
            self._set_buffers(keys, values, columns)

    def update(self, key_states: Tensor, value_states: Tensor, *unused: Any, **more: Any) -> tuple[Tensor, Tensor]:
        """Write new columns behind those that are there; returns all of them, in the type that is computed in."""
        key_states, value_states = _to_compute_dtype(key_states), _to_compute_dtype(value_states)
        if not self.is_initialized:
            self._set_buffers(key_states, value_states, key_states.shape[2])
            return self.keys, self.values
        rows, _, start, _ = self.keys.shape
        end = start + key_states.shape[2]
        if end > self._buffers[0].shape[2]:
            self._buffers = _grow(self.keys, end), _grow(self.values, end)
        for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:rows, :, start:end] = new
        self.keys, self.values = (buffer[:rows, :, :end] for buffer in self._buffers)
        return self.keys, self.values

    def _set_buffers(self, keys: Tensor, values: Tensor, columns: int) -> None:
        self.lazy_initialization(keys, values)
        self._buffers = keys, values
        self.keys, self.values = keys[:, :, :columns], values[:, :, :columns]

    def move_rows(self, sources: Tensor, targets: Tensor, rows: int) -> None:
        """Copy rows from `sources` onto `targets`, and keep the first `rows` rows alone."""
        for states in (self.keys, self.values):
            states[targets] = states[sources]
        self.keys, self.values = self.keys[:rows], self.values[:rows]


def _to_compute_dtype(states: Tensor) -> Tensor:
    # Under autocast rotary embeddings make float32 keys of bfloat16 ones, and attention would cast all for each token.
    device = states.device.type
    return states.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else states


def _capacity(columns: int) -> int:
    # A share of what is there, so that a response of n tokens is copied log n times and not n / 64 times.
    return columns + max(SPARE_COLUMNS, columns // 4)


def _grow(states: Tensor, columns: int) -> Tensor:
    rows, heads, used, size = states.shape
    buffer = states.new_empty(rows, heads, _capacity(columns), size)
    buffer[:, :, :used] = states
    return buffer


@dataclass(eq=False)
class CachedRows:
    """A batch of rows as far as they were computed."""

    mask: Tensor
    """Which columns are the row's own, [rows, columns]."""
    cache: Any = field(default_factory=lambda: Cache(layer_class_to_replicate=BufferedLayer))
    prefix: SharedPrefix | None = None
    """The prompts before these columns, where rows share them."""

    def extend(self, decoder: Any, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compute more tokens.

        Args:
            decoder: the Hugging Face model.
            ids: [rows, columns].
            mask: which of them count, [rows, columns]; None: all.

        Returns:
            The logits behind the last column, [rows, vocabulary].
        """
        new_mask = torch.ones_like(ids) if mask is None else mask
        self.mask = torch.cat([self.mask, new_mask], dim=1)
        # Counted along the mask, since columns have holes; padding in front of a row's first token would be at -1.
        positions = (self.mask.cumsum(1)[:, -ids.shape[1] :] - 1).clamp(min=0)
        if self.prefix:
            positions += self.prefix.lengths[:, None]
        logits: Tensor = decoder(
            input_ids=ids,
            attention_mask=self.mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
            **({"shared_prefix": self.prefix} if self.prefix else {}),
        ).logits[:, -1]
        return logits

    def drop_rows(self, stays: Tensor) -> Tensor:
        """Keep the rows that stay, [rows] of bool.

        The last ones move into the places of those that leave, so that no more is copied than has to be.

        Returns:
            Which row now stands in each place, [rows that stay].
        """
        rows = int(stays.sum())
        places = torch.arange(rows, device=stays.device)
        holes = (~stays[:rows]).nonzero()[:, 0]
        places[holes] = movers = stays[rows:].nonzero()[:, 0] + rows
        for layer in self.cache.layers:
            layer.move_rows(movers, holes, rows)
        self.mask = self.mask[places]
        self.prefix = self.prefix and self.prefix.select(places)
        return places

    def select(self, rows: Tensor) -> CachedRows:
        """Copies of some rows, without the first columns that belong to none of them."""
        mask = self.mask[rows]
        first = int(mask.any(0).int().argmax()) if mask.shape[1] else 0
        columns = mask.shape[1] - first
        layers = [BufferedLayer(x.keys[rows, :, first:], x.values[rows, :, first:], columns) for x in self.cache.layers]
        return CachedRows(mask[:, first:], Cache(layers=layers), self.prefix and self.prefix.select(rows))

    def fork(self, parents: Tensor) -> CachedRows:
        """Rows without columns of their own yet, each behind one of these, [rows], of which nothing is copied."""
        states = [(layer.keys, layer.values) for layer in self.cache.layers]
        rows = len(parents)
        empty = [[x.new_empty(rows, x.shape[1], SPARE_COLUMNS, x.shape[3]) for x in pair] for pair in states]
        layers = [BufferedLayer(keys, values, 0) for keys, values in empty]
        prefix = SharedPrefix(states, self.mask.bool(), parents)
        return CachedRows(self.mask.new_ones(rows, 0), Cache(layers=layers), prefix)

    @property
    def bytes(self) -> int:
        """What the keys and values take, but for those of the shared prefix."""
        return sum(2 * layer.keys.numel() * layer.keys.element_size() for layer in self.cache.layers)


def concatenate_rows(parts: Sequence[tuple[CachedRows, Tensor]]) -> CachedRows:
    """One batch of the named rows, [rows] each, of several; their last columns side by side."""
    columns = max(part.mask.shape[1] for part, _ in parts)
    mask = _stack([(part.mask[:, None, :, None], rows) for part, rows in parts], columns, columns)[:, 0, :, 0]
    layers = []
    for number in range(len(parts[0][0].cache.layers)):
        keys, values = (
            _stack(
                [(getattr(part.cache.layers[number], name), rows) for part, rows in parts], columns, _capacity(columns)
            )
            for name in ("keys", "values")
        )
        layers.append(BufferedLayer(keys, values, columns))
    prefixes = [(part.prefix and part.prefix.select(rows), len(rows)) for part, rows in parts]
    return CachedRows(mask, Cache(layers=layers), concatenate_prefixes(prefixes))


def _stack(parts: Sequence[tuple[Tensor, Tensor]], columns: int, capacity: int) -> Tensor:
    """Chosen rows of several [rows, heads, columns, size] in one buffer of `capacity` columns, ending at `columns`."""
    like, count = parts[0][0], sum(len(rows) for _, rows in parts)
    # Zeros where a row has nothing: it gets no attention, but 0 times what stands there must be 0, and no NaN.
    stacked = like.new_zeros(count, like.shape[1], capacity, like.shape[3])
    start = 0
    for states, rows in parts:
        stacked[start : start + len(rows), :, columns - states.shape[2] : columns] = states[rows]
        start += len(rows)
    return stacked


class PrefixCache:
    """Rows that have ended, looked up by their tokens when the next turn continues them.

    Sorted by tokens and bisected: a turn adds all of its rows before the next one asks, so one sort does, and no tree
    of tokens has to be kept.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        """Bytes of keys and values; rows beyond it are not cached, and are computed again."""
        self._bytes = 0
        self._entries: list[tuple[tuple[int, ...], CachedRows, int]] = []
        self._sorted = True

    def add(self, rows: CachedRows, tokens: Sequence[tuple[int, ...]]) -> None:
        """Cache rows whose computed tokens are these."""
        if self._bytes + rows.bytes > self.limit:
            return
        self._bytes += rows.bytes
        self._entries += [(ids, rows, place) for place, ids in enumerate(tokens)]
        self._sorted = False

    def find(self, prompt: tuple[int, ...]) -> tuple[int, CachedRows, int] | None:
        """The longest cached prefix of a prompt, which at least one token follows: its length, its batch, its row.

        The greatest cached tokens that are not above the prompt share more of it than any other; where they are no
        prefix of it, a prefix of it is one of what they share.
        """
        if not self._sorted:
            self._entries.sort(key=lambda entry: entry[0])
            self._sorted = True
        wanted = prompt[:-1]  # a token must be left to compute, or there would be no logits to draw from
        while place := bisect_right(self._entries, wanted, key=lambda entry: entry[0]):
            tokens, rows, row = self._entries[place - 1]
            common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(tokens, wanted, strict=False)))
            if common == len(tokens):
                return common, rows, row
            wanted = wanted[:common]
        return None
