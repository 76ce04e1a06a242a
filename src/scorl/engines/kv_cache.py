"""Keys and values of a batch of rows.

A row's tokens lie in order, but not side by side: the mask says which columns are its own, so that rows of different
histories can share one batch. Positions are counted along the mask.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from scorl.engines.cache_layers import SPARE_COLUMNS, BufferedLayer, cache_of, empty_cache, has_columns, stack_rows
from scorl.engines.shared_prefix import SharedPrefix, attends_by_cascade, concatenate_prefixes, copy_to

__all__ = ["CachedRows", "concatenate_rows"]


@dataclass(eq=False)
class CachedRows:
    """A batch of rows as far as they were computed."""

    mask: Tensor
    """Which columns are the row's own, [rows, columns]."""
    own: Tensor
    """How many are, [rows]; in the host's memory, since what is computed depends on it."""
    position: Tensor
    """Of each row's next token, [rows]."""
    cache: Any
    prefix: SharedPrefix | None = None
    """The prompts before these columns, where rows share them."""

    @classmethod
    def empty(cls, decoder: Any, mask: Tensor) -> CachedRows:
        """Rows of a model of which nothing is computed, by a mask without columns, [rows, 0] of whole numbers."""
        none = torch.zeros(len(mask), dtype=torch.long)
        return cls(mask, none, mask.new_zeros(len(mask)), empty_cache(decoder.config))

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
        model: Any = type(decoder)
        logits: Tensor = decoder(
            input_ids=ids,
            attention_mask=self._attention_mask(decoder, columns),
            position_ids=positions,
            use_cache=True,
            logits_to_keep=1,
            **{_cache_argument(model): self.cache},
            **({"shared_prefix": self.prefix} if self.prefix else {}),
        ).logits[:, -1]
        return logits

    def _attention_mask(self, decoder: Any, queries: int) -> Tensor | None:
        """What the last columns attend to, as the decoder takes it; None: to all up to themselves.

        transformers would wait for the device to find out whether `self.mask` leaves anything out, for every token.
        """
        if self.prefix is not None:
            return self._additive_mask(queries)
        if bool((self.own == self.mask.shape[1]).all()) or not has_columns(self.cache):
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
        return CachedRows(mask, self.own[rows], self.position[places], cache_of(layers), prefix)

    def fork(self, parents: Tensor) -> CachedRows:
        """Rows without columns of their own yet, each behind one of these, [rows], of which nothing is copied."""
        states = [(layer.keys, layer.values) for layer in self.cache.layers]
        rows = len(parents)
        empty = [[x.new_empty(rows, x.shape[1], SPARE_COLUMNS, x.shape[3]) for x in pair] for pair in states]
        layers = [BufferedLayer(keys, values, 0) for keys, values in empty]
        position = self.position[copy_to(self.mask.device, parents)]
        prefix = SharedPrefix(states, self.mask.bool(), parents)
        none = self.own.new_zeros(rows)
        return CachedRows(self.mask.new_ones(rows, 0), none, position, cache_of(layers), prefix)

    @property
    def column_bytes(self) -> int:
        """What the keys and values of a row's column take, in all layers."""
        attending = [layer for layer in self.cache.layers if isinstance(layer, BufferedLayer)]
        numbers = [(layer.keys.shape, layer.keys.element_size()) for layer in attending]
        return sum(2 * heads * size * width for (_, heads, _, size), width in numbers)


@cache
def _cache_argument(model: Any) -> str:
    """What a model calls the cache in its forward."""
    return "cache_params" if "cache_params" in inspect.signature(model.forward).parameters else "past_key_values"


def concatenate_rows(parts: Sequence[tuple[CachedRows, Tensor]]) -> CachedRows:
    """One batch of the named rows, [rows] each in the host's memory, of several; their last columns side by side."""
    columns = max(part.mask.shape[1] for part, _ in parts)
    placed = [(part, copy_to(part.mask.device, rows)) for part, rows in parts]
    mask = stack_rows([(part.mask[:, None, :, None], rows) for part, rows in placed], columns, columns)[:, 0, :, 0]
    layers = [
        layer.concatenate([(part.cache.layers[number], rows) for part, rows in placed], columns)
        for number, layer in enumerate(parts[0][0].cache.layers)
    ]
    own = torch.cat([part.own[rows] for part, rows in parts])
    position = torch.cat([part.position[rows] for part, rows in placed])
    prefixes = [(part.prefix and part.prefix.select(rows), len(rows)) for part, rows in parts]
    return CachedRows(mask, own, position, cache_of(layers), concatenate_prefixes(prefixes))
