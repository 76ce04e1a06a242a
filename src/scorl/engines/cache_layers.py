"""What a batch of rows has cached in a layer: keys and values, the state of a recurrent layer, or both.

A row is a place in the first dimension. Every kind of layer says how rows move, and how batches are put together.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer, LinearAttentionCacheLayerMixin, LinearAttentionLayer

from scorl.model.layers import DummyLayer, is_recurrent

__all__ = ["SPARE_COLUMNS", "BufferedLayer", "cache_of", "empty_cache", "has_columns", "stack_rows"]

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
        DynamicLayer.__init__(self)
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
        DynamicLayer.lazy_initialization(self, keys, values)
        self._buffers = keys, values
        self.keys, self.values = keys[:, :, :columns], values[:, :, :columns]

    def move_rows(self, sources: Tensor, targets: Tensor, rows: int) -> None:
        """Copy rows from `sources` onto `targets`, and keep the first `rows` rows alone."""
        for states in (self.keys, self.values):
            states[targets] = states[sources]
        self.keys, self.values = self.keys[:rows], self.values[:rows]

    @classmethod
    def concatenate(cls, parts: Sequence[tuple[Any, Tensor]], columns: int) -> Any:
        """The named rows of several layers one above the other, their last columns side by side."""
        capacity = _capacity(columns)
        keys = stack_rows([(layer.keys, rows) for layer, rows in parts], columns, capacity)
        values = stack_rows([(layer.values, rows) for layer, rows in parts], columns, capacity)
        return BufferedLayer(keys, values, columns)


class StateLayer(LinearAttentionLayer):  # type: ignore[misc]
    """A recurrent layer's states, each of one size a row, whatever the row's length."""

    def move_rows(self, sources: Tensor, targets: Tensor, rows: int) -> None:
        """See `BufferedLayer.move_rows`."""
        for states in (self.conv_states, self.recurrent_states):
            for number, state in states.items():
                if state is not None:
                    state[targets] = state[sources]
                    states[number] = state[:rows]

    @classmethod
    def concatenate(cls, parts: Sequence[tuple[Any, Tensor]], columns: int) -> Any:
        """See `BufferedLayer.concatenate`."""
        layer = copy.copy(parts[0][0])
        layer.conv_states = _concatenate_states([(part.conv_states, rows) for part, rows in parts])
        layer.recurrent_states = _concatenate_states([(part.recurrent_states, rows) for part, rows in parts])
        return layer


class MixedLayer(StateLayer, BufferedLayer):
    """A recurrent layer beside attention."""

    def __init__(self, **states: Any) -> None:
        BufferedLayer.__init__(self)
        StateLayer.__init__(self, **states)

    def move_rows(self, sources: Tensor, targets: Tensor, rows: int) -> None:
        """See `BufferedLayer.move_rows`."""
        StateLayer.move_rows(self, sources, targets, rows)
        BufferedLayer.move_rows(self, sources, targets, rows)

    @classmethod
    def concatenate(cls, parts: Sequence[tuple[Any, Tensor]], columns: int) -> Any:
        """See `BufferedLayer.concatenate`."""
        layer = super().concatenate(parts, columns)
        attention = BufferedLayer.concatenate(parts, columns)
        layer.keys, layer.values, layer._buffers = attention.keys, attention.values, attention._buffers
        return layer


class NoLayer(DummyLayer):  # type: ignore[misc]
    """A layer that remembers nothing, as one of experts alone."""

    def move_rows(self, sources: Tensor, targets: Tensor, rows: int) -> None:
        """See `BufferedLayer.move_rows`."""

    @classmethod
    def concatenate(cls, parts: Sequence[tuple[Any, Tensor]], columns: int) -> Any:
        """See `BufferedLayer.concatenate`."""
        return cls()


def empty_cache(config: Any) -> Cache:
    """The cache of a model, by its configuration, for rows of which nothing is computed."""
    if not is_recurrent(config):
        return Cache(layer_class_to_replicate=BufferedLayer)
    return cache_of([_like(layer) for layer in DynamicCache(config=config).layers])


def cache_of(layers: list[Any]) -> Cache:
    """The cache that some layers make."""
    return Cache(layers) if any(isinstance(layer, BufferedLayer) for layer in layers) else _StatesAlone(layers)


def has_columns(cache: Cache) -> bool:
    """Whether there is anything that is attended to."""
    return not isinstance(cache, _StatesAlone)


class _StatesAlone(Cache):  # type: ignore[misc]
    """A cache without keys and values; transformers' own raises where a model asks it for columns to attend to."""

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """No columns."""
        return 0

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """The new columns alone."""
        return query_length, 0


def _like(layer: Any) -> Any:
    """The layer that takes the place of transformers' own."""
    if not isinstance(layer, LinearAttentionCacheLayerMixin):
        return NoLayer() if isinstance(layer, DummyLayer) else BufferedLayer()
    kind = MixedLayer if isinstance(layer, DynamicLayer) else StateLayer
    return kind(number_of_states=len(layer.conv_states))


def _concatenate_states(parts: Sequence[tuple[dict[int, Tensor | None], Tensor]]) -> dict[int, Tensor | None]:
    """Chosen rows of the same states in several layers; of some kinds of layers one of the states is never there."""
    joined = {}
    for number in parts[0][0]:
        states = [(state, rows) for held, rows in parts if (state := held[number]) is not None]
        joined[number] = torch.cat([state[rows] for state, rows in states]) if states else None
    return joined


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


def stack_rows(parts: Sequence[tuple[Tensor, Tensor]], columns: int, capacity: int) -> Tensor:
    """Chosen rows of several [rows, heads, columns, size] in one buffer of `capacity` columns, ending at `columns`."""
    like, count = parts[0][0], sum(len(rows) for _, rows in parts)
    # Zeros where a row has nothing: it gets no attention, but 0 times what stands there must be 0, and no NaN.
    stacked = like.new_zeros(count, like.shape[1], capacity, like.shape[3])
    start = 0
    for states, rows in parts:
        stacked[start : start + len(rows), :, columns - states.shape[2] : columns] = states[rows]
        start += len(rows)
    return stacked
