"""Prompts whose keys and values exist once, however many rows go on from them.

Decoding a token reads all keys and values of its row. Where rows share a prompt, their queries are put to it together:
one product of matrices for a prompt in place of one for each row, and with eight samples an eighth of what is read.
Each row adds its own columns, and one softmax goes over both.
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

__all__ = ["Trunk", "grafted", "trunk_attention"]

_NAME = "scorl_trunk"


@dataclass(eq=False)
class Trunk:
    """Computed prompts, and which of them each row goes on from."""

    layers: Sequence[tuple[Tensor, Tensor]]
    """Keys and values of each layer, [prompts, groups of heads, columns, size]."""
    mask: Tensor
    """Which columns are a prompt's own, [prompts, columns]."""
    prompt: Tensor
    """Each row's, [rows]."""

    @property
    def lengths(self) -> Tensor:
        """Tokens of each row's prompt, [rows]."""
        return self.mask.sum(1)[self.prompt]

    def taken(self, rows: Tensor) -> Trunk:
        """The same prompts for some of the rows."""
        return Trunk(self.layers, self.mask, self.prompt[rows])

    def by_prompt(self, rows: Tensor) -> Tensor:
        """[rows, groups, queries, n] -> [prompts, groups, rows of a prompt * queries, n]; short ones are filled up."""
        slots, _ = self._places
        filled = rows[slots.flatten()].view(*slots.shape, *rows.shape[1:])
        return filled.transpose(1, 2).flatten(2, 3)

    def by_row(self, prompts: Tensor) -> Tensor:
        """The way back."""
        slots, place = self._places
        count, groups, _, size = prompts.shape
        return prompts.view(count, groups, slots.shape[1], -1, size).transpose(1, 2).flatten(0, 1)[place]

    def _living(self) -> Trunk:
        """Without the prompts that no row goes on from."""
        used = self.prompt.bincount(minlength=len(self.mask)) > 0
        place = used.cumsum(0) - 1
        return Trunk([(x[used], y[used]) for x, y in self.layers], self.mask[used], place[self.prompt])

    @cached_property
    def _places(self) -> tuple[Tensor, Tensor]:
        """Which rows stand at each prompt, [prompts, most rows of one], and each row's place among them, [rows]."""
        counts = self.prompt.bincount(minlength=len(self.mask))
        order = self.prompt.argsort(stable=True)
        sorted_prompt = self.prompt[order]
        rank = torch.arange(len(order), device=order.device) - (counts.cumsum(0) - counts)[sorted_prompt]
        most = int(counts.max())
        place = torch.empty_like(order)
        place[order] = sorted_prompt * most + rank
        slots = torch.zeros(len(counts) * most, dtype=torch.long, device=order.device)
        slots[place] = torch.arange(len(order), device=order.device)
        return slots.view(-1, most), place


def grafted(parts: Sequence[tuple[Trunk | None, int]]) -> Trunk | None:
    """One trunk for several batches of rows, so many each; a batch without one gets a prompt of no tokens.

    Prompts that no row goes on from any more are left out.
    """
    like = next((trunk for trunk, _ in parts if trunk is not None), None)
    if like is None:
        return None
    trunks = [(trunk or _bare(like, rows))._living() for trunk, rows in parts]
    columns = max(trunk.mask.shape[1] for trunk in trunks)
    starts = accumulate([len(trunk.mask) for trunk in trunks], initial=0)
    layers = [
        (_stacked([keys for keys, _ in layer], columns), _stacked([values for _, values in layer], columns))
        for layer in zip(*(trunk.layers for trunk in trunks), strict=True)
    ]
    mask = torch.cat([F.pad(trunk.mask, (0, columns - trunk.mask.shape[1])) for trunk in trunks])
    prompts = [trunk.prompt + start for trunk, start in zip(trunks, starts, strict=False)]
    return Trunk(layers, mask, torch.cat(prompts))


def _bare(like: Trunk, rows: int) -> Trunk:
    """A prompt of no tokens, for so many rows."""
    layers = [(keys[:1, :, :0], values[:1, :, :0]) for keys, values in like.layers]
    return Trunk(layers, like.mask[:1, :0], like.prompt.new_zeros(rows))


def _stacked(parts: Sequence[Tensor], columns: int) -> Tensor:
    """Prompts one above the other, each filled up to so many columns with zeros: 0 times them must be 0."""
    return torch.cat([F.pad(x, (0, 0, 0, columns - x.shape[2])) for x in parts])


@contextmanager
def trunk_attention(decoder: Any) -> Iterator[None]:
    """Let a model attend to trunks, where its forward is given one; else it attends as it does."""
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
    trunk: Trunk | None = None,
    scaling: float | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """Attention of rows, [rows, heads, queries, size] -> [rows, queries, heads, size], as transformers calls it."""
    if trunk is None:
        plain: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **more
        )
        return plain
    rows, heads, length, size = query.shape
    share = heads // key.shape[1]
    folded = query.reshape(rows, key.shape[1], share * length, size) * (size**-0.5 if scaling is None else scaling)
    keys, values = trunk.layers[module.layer_idx]
    shared = trunk.by_prompt(folded) @ keys.transpose(2, 3)
    shared = trunk.by_row(shared.masked_fill(~trunk.mask[:, None, None], -torch.inf))
    own = folded @ key.transpose(2, 3)
    if attention_mask is None and length > 1:
        attention_mask = own.new_ones(length, length, dtype=torch.bool).tril()[None, None]
    if attention_mask is not None:
        own = own.masked_fill(~attention_mask.repeat(1, 1, share, 1), -torch.inf)
    weights = torch.cat([shared, own], -1).softmax(-1, dtype=torch.float32).to(value.dtype)
    columns = keys.shape[2]
    found = trunk.by_row(trunk.by_prompt(weights[..., :columns]) @ values) + weights[..., columns:] @ value
    return found.view(rows, heads, length, size).transpose(1, 2).contiguous(), None


AttentionInterface.register(_NAME, _attend)
AttentionMaskInterface.register(_NAME, sdpa_mask)
