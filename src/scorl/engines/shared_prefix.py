"""Prompts whose keys and values exist once, however many rows continue them (cascade attention).

Decoding a token reads all keys and values of its row. Where rows share a prompt, their queries are put to it together:
one matmul for a prompt in place of one for each row, and with eight samples an eighth of what is read. Each row adds
its own columns, and one softmax goes over both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

__all__ = ["SharedPrefix", "cascade_attention", "concatenate_prefixes"]

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
    """Each row's, [rows]."""

    @property
    def lengths(self) -> Tensor:
        """Tokens of each row's prompt, [rows]."""
        return self.mask.sum(1)[self.prompt]

    def select(self, rows: Tensor) -> SharedPrefix:
        """The same prompts for some of the rows."""
        return SharedPrefix(self.layers, self.mask, self.prompt[rows])

    def group_by_prompt(self, rows: Tensor) -> Tensor:
        """[rows, heads, queries, n] -> [prompts, heads, most rows of a prompt * queries, n].

        A prompt with fewer rows is filled up with copies of row 0, of which `ungroup` reads nothing.
        """
        slots, _ = self._slots
        filled = rows[slots.flatten()].view(*slots.shape, *rows.shape[1:])
        return filled.transpose(1, 2).flatten(2, 3)

    def ungroup(self, prompts: Tensor) -> Tensor:
        """The inverse of `group_by_prompt`."""
        slots, places = self._slots
        count, heads, _, size = prompts.shape
        return prompts.view(count, heads, slots.shape[1], -1, size).transpose(1, 2).flatten(0, 1)[places]

    def drop_unused(self) -> SharedPrefix:
        """Without the prompts that no row continues any more."""
        used = self.prompt.bincount(minlength=len(self.mask)) > 0
        renumbered = used.cumsum(0) - 1
        return SharedPrefix([(x[used], y[used]) for x, y in self.layers], self.mask[used], renumbered[self.prompt])

    @cached_property
    def _slots(self) -> tuple[Tensor, Tensor]:
        """The rows of each prompt, [prompts, most rows of one], and each row's place in that table, flat, [rows].

        Computed once for a set of rows, not in every layer.
        """
        counts = self.prompt.bincount(minlength=len(self.mask))
        order = self.prompt.argsort(stable=True)
        sorted_prompt = self.prompt[order]
        rank = torch.arange(len(order), device=order.device) - (counts.cumsum(0) - counts)[sorted_prompt]
        most = int(counts.max())
        places = torch.empty_like(order)
        places[order] = sorted_prompt * most + rank
        slots = torch.zeros(len(counts) * most, dtype=torch.long, device=order.device)
        slots[places] = torch.arange(len(order), device=order.device)
        return slots.view(-1, most), places


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
    """Attention of rows, [rows, heads, queries, size] -> [rows, queries, heads, size], as transformers calls it."""
    if shared_prefix is None:
        output: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **more
        )
        return output
    rows, heads, length, size = query.shape
    share = heads // key.shape[1]
    # The query heads that share a key head become more queries of it: keys need not be repeated for each of them.
    folded = query.reshape(rows, key.shape[1], share * length, size) * (size**-0.5 if scaling is None else scaling)
    prefix_keys, prefix_values = shared_prefix.layers[module.layer_idx]
    prefix_scores = shared_prefix.group_by_prompt(folded) @ prefix_keys.transpose(2, 3)
    prefix_scores = shared_prefix.ungroup(prefix_scores.masked_fill(~shared_prefix.mask[:, None, None], -torch.inf))
    own_scores = folded @ key.transpose(2, 3)
    if attention_mask is None and length > 1:  # transformers leaves a mask out that is only causal
        attention_mask = own_scores.new_ones(length, length, dtype=torch.bool).tril()[None, None]
    if attention_mask is not None:
        own_scores = own_scores.masked_fill(~attention_mask.repeat(1, 1, share, 1), -torch.inf)
    weights = torch.cat([prefix_scores, own_scores], -1).softmax(-1, dtype=torch.float32).to(value.dtype)
    columns = prefix_keys.shape[2]
    of_prefix = shared_prefix.ungroup(shared_prefix.group_by_prompt(weights[..., :columns]) @ prefix_values)
    attended = of_prefix + weights[..., columns:] @ value
    return attended.view(rows, heads, length, size).transpose(1, 2).contiguous(), None


AttentionInterface.register(_NAME, _attend)
AttentionMaskInterface.register(_NAME, sdpa_mask)
