"""Prompts whose keys and values exist once, however many rows continue them (cascade attention).

Decoding a token reads all keys and values of its row. Where rows share a prompt, their queries are put to it together:
one matmul for a prompt in place of one for each row, and with eight samples an eighth of what is read. Each row adds
its own columns, and one softmax goes over both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

__all__ = ["SharedPrefix", "attends_by_cascade", "cascade_attention", "concatenate_prefixes", "copy_to"]

_NAME = "scorl_cascade"
"""By which transformers knows the attention."""


@dataclass(eq=False)
class SharedPrefix:
    """Computed prompts, and which of them each row continues."""

    layers: Sequence[tuple[Tensor, Tensor]]
    """Keys and values of each layer, [prompts, key heads, columns, size]."""
    mask: Tensor
    """Which columns are a prompt's own, [prompts, columns]."""
    prompt: Tensor
    """Each row's, [rows]; in the host's memory, since code depends on it."""
    _indices: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)

    @cached_property
    def row_mask(self) -> Tensor:
        """Which of its prompt's columns are a row's own, [rows, columns]."""
        return self.mask[copy_to(self.mask.device, self.prompt)]

    def select(self, rows: Tensor) -> SharedPrefix:
        """The same prompts for some of the rows."""
        return SharedPrefix(self.layers, self.mask, self.prompt[rows])

    def group_by_prompt(self, rows: Tensor) -> Tensor:
        """[rows, heads, queries, n] -> [prompts, heads, most rows of a prompt * queries, n].

        A prompt with fewer rows is filled up with copies of row 0, of which `ungroup` reads nothing.
        """
        slots, _ = self._index(rows)
        return rows.flatten(0, 1)[slots].flatten(2, 3)

    def ungroup(self, prompts: Tensor, like: Tensor) -> Tensor:
        """The inverse of `group_by_prompt`; there are as many rows, heads and queries as in `like`."""
        _, places = self._index(like)
        return prompts.reshape(-1, like.shape[2], prompts.shape[3])[places]

    def drop_unused(self) -> SharedPrefix:
        """Without the prompts that no row continues any more."""
        used = self.prompt.bincount(minlength=len(self.mask)) > 0
        kept = copy_to(self.mask.device, used.nonzero()[:, 0])
        renumbered = (used.cumsum(0) - 1)[self.prompt]
        return SharedPrefix([(x[kept], y[kept]) for x, y in self.layers], self.mask[kept], renumbered)

    def _index(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Of [rows, heads, ...] flattened, what stands in each prompt's slots; and of those each row's place.

        [prompts, heads, most rows of a prompt] and [rows, heads]; computed once for a set of rows, not in every layer.
        """
        heads = rows.shape[1]
        if heads not in self._indices:
            slots, rank = _slots(self.prompt, len(self.mask))
            head = torch.arange(heads)
            by_head = slots[:, None] * heads + head[:, None]
            places = (self.prompt[:, None] * heads + head) * slots.shape[1] + rank[:, None]
            self._indices[heads] = copy_to(rows.device, by_head), copy_to(rows.device, places)
        return self._indices[heads]


def _slots(prompt: Tensor, prompts: int) -> tuple[Tensor, Tensor]:
    """The rows of each prompt, [prompts, most rows of one], and each row's place among them, [rows]."""
    counts = prompt.bincount(minlength=prompts)
    order = prompt.argsort(stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order)) - (counts.cumsum(0) - counts)[prompt[order]]
    slots = prompt.new_zeros(prompts, int(counts.max()))
    slots[prompt, rank] = torch.arange(len(order))
    return slots, rank


def copy_to(device: torch.device, host: Tensor) -> Tensor:
    """A tensor of the host's memory on a device, which is not waited for."""
    return host.to(device, non_blocking=True)


def concatenate_prefixes(parts: Sequence[tuple[SharedPrefix | None, int]]) -> SharedPrefix | None:
    """One shared prefix for several batches of rows, so many each; None where none has one.

    Rows without one get a prompt of no tokens. Here prompts that no row continues are dropped: keys and values are
    copied anyway, while dropping them as soon as their last row leaves would be a copy more.
    """
    like = next((prefix for prefix, _ in parts if prefix is not None), None)
    if like is None:
        return None
    prefixes = [(prefix or _empty_prefix(like, rows)).drop_unused() for prefix, rows in parts]
    columns = max(prefix.mask.shape[1] for prefix in prefixes)
    starts = accumulate([len(prefix.mask) for prefix in prefixes], initial=0)
    layers = [
        (_stack([keys for keys, _ in layer], columns), _stack([values for _, values in layer], columns))
        for layer in zip(*(prefix.layers for prefix in prefixes), strict=True)
    ]
    mask = torch.cat([F.pad(prefix.mask, (0, columns - prefix.mask.shape[1])) for prefix in prefixes])
    prompts = [prefix.prompt + start for prefix, start in zip(prefixes, starts, strict=False)]
    return SharedPrefix(layers, mask, torch.cat(prompts))


def _empty_prefix(like: SharedPrefix, rows: int) -> SharedPrefix:
    """A prompt of no tokens, for so many rows."""
    layers = [(keys[:1, :, :0], values[:1, :, :0]) for keys, values in like.layers]
    return SharedPrefix(layers, like.mask[:1, :0], like.prompt.new_zeros(rows))


def _stack(parts: Sequence[Tensor], columns: int) -> Tensor:
    """Prompts one above the other, each filled up to so many columns with zeros: 0 times them must be 0."""
    return torch.cat([F.pad(x, (0, 0, 0, columns - x.shape[2])) for x in parts])


@contextmanager
def cascade_attention(decoder: Any) -> Iterator[None]:
    """Let a model attend to a shared prefix, where its forward is given one; else it attends as it does."""
    before = decoder.config._attn_implementation
    try:
        decoder.set_attn_implementation(_NAME)
        yield
    finally:
        decoder.set_attn_implementation(before)


def attends_by_cascade(decoder: Any) -> bool:
    """Whether a model is in `cascade_attention`, which takes a mask of rows and columns as numbers that are added."""
    return bool(decoder.config._attn_implementation == _NAME)


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    shared_prefix: SharedPrefix | None = None,
    scaling: float | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """Attention of rows, [rows, heads, queries, size] -> [rows, queries, heads, size], as transformers calls it.

    With a shared prefix the mask is `CachedRows`' own: the prefix's columns stand in front of the row's.
    """
    if shared_prefix is None:
        output: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **more
        )
        return output
    rows, heads, length, size = query.shape
    share = heads // key.shape[1]
    # The query heads that share a key head become more queries of it: keys need not be repeated for each of them.
    folded = query.reshape(rows, key.shape[1], share * length, size) * (size**-0.5 if scaling is None else scaling)
    folded = folded.to(key.dtype)  # as autocast would, but once
    prefix_keys, prefix_values = shared_prefix.layers[module.layer_idx]
    prefix_scores = shared_prefix.group_by_prompt(folded) @ prefix_keys.transpose(2, 3)
    scores = torch.cat([shared_prefix.ungroup(prefix_scores, folded), folded @ key.transpose(2, 3)], -1)
    assert attention_mask is not None
    scores += attention_mask if length == 1 else attention_mask.repeat(1, 1, share, 1)
    # In half precision, too, sums are in float32; the type is named, or autocast would make a copy in float32.
    weights = scores.softmax(-1, dtype=scores.dtype).to(value.dtype)
    columns = prefix_keys.shape[2]
    of_prefix = shared_prefix.group_by_prompt(weights[..., :columns]) @ prefix_values
    attended = shared_prefix.ungroup(of_prefix, folded) + weights[..., columns:] @ value
    return attended.view(rows, heads, length, size).transpose(1, 2).contiguous(), None


AttentionInterface.register(_NAME, _attend)
AttentionMaskInterface.register(_NAME, sdpa_mask)
