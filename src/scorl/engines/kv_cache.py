"""Keys and values of many rows: written in place, handed from one batch of rows to another, kept between turns.

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

from scorl.engines.shared_prefix import Trunk, grafted

__all__ = ["Kept", "Rows", "joined"]

SPARE = 64
"""Columns that a buffer has room for ahead, at least."""


class Layer(DynamicLayer):  # type: ignore[misc]
    """A layer's keys and values in buffers with room ahead: a new token is written, and nothing is copied.

    `keys` and `values` are views, [rows, heads, columns, size], of the buffers.
    """

    keys: Tensor
    values: Tensor
    _buffers: tuple[Tensor, Tensor]

    def __init__(self, keys: Tensor | None = None, values: Tensor | None = None, columns: int = 0) -> None:
        super().__init__()
        if keys is not None and values is not None:
            self._begin(keys, values, columns)

    def update(self, key_states: Tensor, value_states: Tensor, *unused: Any, **more: Any) -> tuple[Tensor, Tensor]:
        """Write new columns behind those that are there; all of them."""
        if not self.is_initialized:
            self._begin(key_states, value_states, key_states.shape[2])
            return self.keys, self.values
        rows, _, start, _ = self.keys.shape
        end = start + key_states.shape[2]
        if end > self._buffers[0].shape[2]:
            self._buffers = _with_room(self.keys, end), _with_room(self.values, end)
        for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:rows, :, start:end] = new
        self.keys, self.values = (buffer[:rows, :, :end] for buffer in self._buffers)
        return self.keys, self.values

    def _begin(self, keys: Tensor, values: Tensor, columns: int) -> None:
        self.lazy_initialization(keys, values)
        self._buffers = keys, values
        self.keys, self.values = keys[:, :, :columns], values[:, :, :columns]

    def shrink(self, holes: Tensor, movers: Tensor, rows: int) -> None:
        """Only the first `rows` rows stay, and `movers` from behind them take the places `holes`."""
        for held in (self.keys, self.values):
            held[holes] = held[movers]
        self.keys, self.values = self.keys[:rows], self.values[:rows]


def _room(columns: int) -> int:
    return columns + max(SPARE, columns // 4)


def _with_room(held: Tensor, columns: int) -> Tensor:
    rows, heads, used, size = held.shape
    buffer = held.new_empty(rows, heads, _room(columns), size)
    buffer[:, :, :used] = held
    return buffer


@dataclass(eq=False)
class Rows:
    """A batch of rows as far as they were computed."""

    mask: Tensor
    """Which columns are the row's own, [rows, columns]."""
    cache: Any = field(default_factory=lambda: Cache(layer_class_to_replicate=Layer))
    trunk: Trunk | None = None
    """The prompts before these columns, where rows share them."""

    def extend(self, decoder: Any, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compute more tokens, [rows, columns], those that the mask counts; the logits behind them, [rows, words]."""
        mine = torch.ones_like(ids) if mask is None else mask
        self.mask = torch.cat([self.mask, mine], dim=1)
        positions = (self.mask.cumsum(1)[:, -ids.shape[1] :] - 1).clamp(min=0)
        if self.trunk:
            positions += self.trunk.lengths[:, None]
        logits: Tensor = decoder(
            input_ids=ids,
            attention_mask=self.mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
            **({"trunk": self.trunk} if self.trunk else {}),
        ).logits[:, -1]
        return logits

    def shrink(self, stays: Tensor) -> Tensor:
        """Let rows leave, [rows] of bool; which row now stands in each place."""
        rows = int(stays.sum())
        places = torch.arange(rows, device=stays.device)
        holes = (~stays[:rows]).nonzero()[:, 0]
        places[holes] = movers = stays[rows:].nonzero()[:, 0] + rows
        for layer in self.cache.layers:
            layer.shrink(holes, movers, rows)
        self.mask = self.mask[places]
        self.trunk = self.trunk and self.trunk.taken(places)
        return places

    def taken(self, rows: Tensor) -> Rows:
        """Copies of some rows, without the columns that are none of theirs at the beginning."""
        mask = self.mask[rows]
        first = int(mask.any(0).int().argmax()) if mask.shape[1] else 0
        columns = mask.shape[1] - first
        layers = [Layer(x.keys[rows, :, first:], x.values[rows, :, first:], columns) for x in self.cache.layers]
        return Rows(mask[:, first:], Cache(layers=layers), self.trunk and self.trunk.taken(rows))

    def branched(self, prompt: Tensor) -> Rows:
        """Rows that go on from these, each from the one that is named, [rows], without copies of them."""
        pairs = [(layer.keys, layer.values) for layer in self.cache.layers]
        empty = [[x.new_empty(len(prompt), x.shape[1], SPARE, x.shape[3]) for x in pair] for pair in pairs]
        layers = [Layer(keys, values, 0) for keys, values in empty]
        return Rows(self.mask.new_ones(len(prompt), 0), Cache(layers=layers), Trunk(pairs, self.mask.bool(), prompt))

    @property
    def bytes(self) -> int:
        """What the keys and values take, but for those of the trunk."""
        return sum(2 * layer.keys.numel() * layer.keys.element_size() for layer in self.cache.layers)


def joined(parts: Sequence[tuple[Rows, Tensor]]) -> Rows:
    """One batch of the named rows of several, their last columns side by side."""
    columns = max(part.mask.shape[1] for part, _ in parts)
    mask = _stacked([(part.mask[:, None, :, None], rows) for part, rows in parts], columns, columns)[:, 0, :, 0]
    layers = []
    for number in range(len(parts[0][0].cache.layers)):
        keys, values = (
            _stacked(
                [(getattr(part.cache.layers[number], name), rows) for part, rows in parts], columns, _room(columns)
            )
            for name in ("keys", "values")
        )
        layers.append(Layer(keys, values, columns))
    trunks = [(part.trunk and part.trunk.taken(rows), len(rows)) for part, rows in parts]
    return Rows(mask, Cache(layers=layers), grafted(trunks))


def _stacked(parts: Sequence[tuple[Tensor, Tensor]], columns: int, room: int) -> Tensor:
    """Chosen rows of several [rows, heads, columns, size] in one of `room` columns, ending at `columns`.

    Zeros stand where a row has nothing: it gets no attention, but 0 times it must be 0.
    """
    like, count = parts[0][0], sum(len(rows) for _, rows in parts)
    stacked = like.new_zeros(count, like.shape[1], room, like.shape[3])
    start = 0
    for held, rows in parts:
        stacked[start : start + len(rows), :, columns - held.shape[2] : columns] = held[rows]
        start += len(rows)
    return stacked


class Kept:
    """Rows that have ended, found again by their tokens when the next turn goes on from them."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        """Bytes of keys and values; rows beyond are not kept, and are computed again."""
        self._bytes = 0
        self._rows: list[tuple[tuple[int, ...], Rows, int]] = []
        self._sorted = True

    def keep(self, rows: Rows, tokens: Sequence[tuple[int, ...]]) -> None:
        """Keep rows whose computed tokens are these."""
        if self._bytes + rows.bytes > self.limit:
            return
        self._bytes += rows.bytes
        self._rows += [(ids, rows, place) for place, ids in enumerate(tokens)]
        self._sorted = False

    def find(self, prompt: tuple[int, ...]) -> tuple[int, Rows, int] | None:
        """The longest kept beginning of a prompt, which at least one token follows: its length, its batch, its row.

        The greatest kept tokens that are not above the prompt share more of it than any other; where they are no
        beginning of it, a beginning is one of what they share.
        """
        if not self._sorted:
            self._rows.sort(key=lambda kept: kept[0])
            self._sorted = True
        sought = prompt[:-1]
        while place := bisect_right(self._rows, sought, key=lambda kept: kept[0]):
            tokens, rows, row = self._rows[place - 1]
            common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(tokens, sought, strict=False)))
            if common == len(tokens):
                return common, rows, row
            sought = sought[:common]
        return None
