"""Keys and values of a batch of rows.

A row's tokens lie in order, but not side by side: the mask says which columns are its own, so that rows of different
histories can share one batch. Positions are counted along the mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from scorl.engines.shared_prefix import SharedPrefix, attends_by_cascade, concatenate_prefixes, copy_to

__all__ = ["BufferedLayer", "CachedRows", "concatenate_rows"]

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
    own: Tensor
    """How many are, [rows]; in the host's memory, since what is computed depends on it."""
    position: Tensor
    """Of each row's next token, [rows]."""
    cache: Any = field(default_factory=lambda: Cache(layer_class_to_replicate=BufferedLayer))
    prefix: SharedPrefix | None = None
    """The prompts before these columns, where rows share them."""

    @classmethod
    def empty(cls, mask: Tensor) -> CachedRows:
        """Rows of which nothing is computed, by a mask without columns, [rows, 0] of whole numbers."""
        return cls(mask, torch.zeros(len(mask), dtype=torch.long), mask.new_zeros(len(mask)))

    def extend(self, decoder: Any, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compute more tokens.

        Args:
            decoder: the Hugging Face model.
            ids: [rows, columns].
            mask: which of them count, [rows, columns], in the host's memory; None: all.

        Returns:
            The logits behind the last column, [rows, vocabulary].
        """
        columns = ids.shape[1]
        if mask is None:
            new_mask = torch.ones_like(ids)
            self.own = self.own + columns
        else:
            new_mask = copy_to(ids.device, mask)
            self.own = self.own + mask.sum(1)
        self.mask = torch.cat([self.mask, new_mask], dim=1)
        # Padding in front of a row's first token would be at -1.
        positions = (
            self.position[:, None] + (new_mask.cumsum(1) - 1).clamp(min=0) if columns > 1 else self.position[:, None]
        )
        self.position = positions[:, -1] + 1
        logits: Tensor = decoder(
            input_ids=ids,
            attention_mask=self._attention_mask(decoder, columns),
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
            **({"shared_prefix": self.prefix} if self.prefix else {}),
        ).logits[:, -1]
        return logits

    def _attention_mask(self, decoder: Any, queries: int) -> Tensor | None:
        """What the last columns attend to, as the decoder takes it; None: to all up to themselves.

        transformers would wait for the device to find out whether `self.mask` leaves anything out, for every token.
        """
        if self.prefix is not None:
            return self._additive_mask(queries)
        if bool((self.own == self.mask.shape[1]).all()):
            return None
        return self._additive_mask(queries) if queries == 1 and attends_by_cascade(decoder) else self.mask

    def _additive_mask(self, queries: int) -> Tensor:
        """0 where the last columns attend and -inf elsewhere, [rows, 1, queries, columns], the prefix's in front.

        transformers takes a mask of this shape as it is and adds no sliding window to it. That is right only because
        `try_shared_prefix` refuses models that have one.
        """
        keys: Tensor = self.cache.layers[0].keys
        allowed = self.mask.bool()[:, None]
        if queries > 1:
            allowed = allowed & allowed.new_ones(queries, allowed.shape[2]).tril(allowed.shape[2] - queries)
        if self.prefix is not None:
            allowed = torch.cat([self.prefix.row_mask[:, None].expand(-1, queries, -1), allowed], -1)
        return torch.zeros_like(allowed, dtype=keys.dtype).masked_fill_(~allowed, -torch.inf)[:, None]

    def drop_rows(self, ended: Sequence[int]) -> tuple[list[int], Tensor]:
        """Let rows go, in ascending order.

        The last ones move into the places of those that leave, so that no more is copied than has to be.

        Returns:
            Which row now stands in each place, [rows that stay]: for the host and for the device.
        """
        rows = len(self.own) - len(ended)
        holes = [row for row in ended if row < rows]
        movers = sorted({*range(rows, len(self.own))}.difference(ended))
        order = list(range(rows))
        for hole, mover in zip(holes, movers, strict=True):
            order[hole] = mover
        kept = torch.tensor(order)
        places = copy_to(self.mask.device, torch.tensor([*order, *movers, *holes]))  # one copy for all three
        places, sources, targets = places[:rows], places[rows : rows + len(holes)], places[rows + len(holes) :]
        for layer in self.cache.layers:
            layer.move_rows(sources, targets, rows)
        self.mask, self.own, self.position = self.mask[places], self.own[kept], self.position[places]
        self.prefix = self.prefix and self.prefix.select(kept)
        return order, places

    def first_column(self, rows: Tensor) -> int:
        """The first column that belongs to any of some rows."""
        return int(self.mask[copy_to(self.mask.device, rows)].any(0).int().argmax()) if self.mask.shape[1] else 0

    def select(self, rows: Tensor, first: int = 0) -> CachedRows:
        """Copies of some rows, [rows] in the host's memory, from a column on."""
        places = copy_to(self.mask.device, rows)
        mask = self.mask[places, first:]
        columns = mask.shape[1]
        layers = [
            BufferedLayer(x.keys[places, :, first:], x.values[places, :, first:], columns) for x in self.cache.layers
        ]
        prefix = self.prefix and self.prefix.select(rows)
        return CachedRows(mask, self.own[rows], self.position[places], Cache(layers=layers), prefix)

    def fork(self, parents: Tensor) -> CachedRows:
        """Rows without columns of their own yet, each behind one of these, [rows], of which nothing is copied."""
        states = [(layer.keys, layer.values) for layer in self.cache.layers]
        rows = len(parents)
        empty = [[x.new_empty(rows, x.shape[1], SPARE_COLUMNS, x.shape[3]) for x in pair] for pair in states]
        layers = [BufferedLayer(keys, values, 0) for keys, values in empty]
        position = self.position[copy_to(self.mask.device, parents)]
        prefix = SharedPrefix(states, self.mask.bool(), parents)
        none = self.own.new_zeros(rows)
        return CachedRows(self.mask.new_ones(rows, 0), none, position, Cache(layers=layers), prefix)

    @property
    def column_bytes(self) -> int:
        """What the keys and values of a row's column take, in all layers."""
        numbers = [(layer.keys.shape, layer.keys.element_size()) for layer in self.cache.layers]
        return sum(2 * heads * size * width for (_, heads, _, size), width in numbers)


def concatenate_rows(parts: Sequence[tuple[CachedRows, Tensor]]) -> CachedRows:
    """One batch of the named rows, [rows] each in the host's memory, of several; their last columns side by side."""
    columns = max(part.mask.shape[1] for part, _ in parts)
    placed = [(part, copy_to(part.mask.device, rows)) for part, rows in parts]
    mask = _stack([(part.mask[:, None, :, None], rows) for part, rows in placed], columns, columns)[:, 0, :, 0]
    layers = []
    for number in range(len(parts[0][0].cache.layers)):
        keys, values = (
            _stack(
                [(getattr(part.cache.layers[number], name), rows) for part, rows in placed], columns, _capacity(columns)
            )
            for name in ("keys", "values")
        )
        layers.append(BufferedLayer(keys, values, columns))
    own = torch.cat([part.own[rows] for part, rows in parts])
    position = torch.cat([part.position[rows] for part, rows in placed])
    prefixes = [(part.prefix and part.prefix.select(rows), len(rows)) for part, rows in parts]
    return CachedRows(mask, own, position, Cache(layers=layers), concatenate_prefixes(prefixes))


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
