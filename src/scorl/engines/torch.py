"""The embedded engine: batched sampling on any Hugging Face decoder, each distinct token computed once.

A distinct prompt is computed once and shared by its samples; a later turn continues from the keys and values of the
turn before. Rows that have ended leave at once, and waiting ones take their places (continuous batching). A row's draws
come from a counter-based generator keyed by its own seed, one uniform number a token, so that they do not depend on the
batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from scorl.engines.engine import Arithmetic, Request, Sample, token_budgets
from scorl.engines.kv_cache import CachedRows, concatenate_rows
from scorl.engines.pieces import ShownText, Watch
from scorl.engines.prefix_cache import PrefixCache
from scorl.engines.prefix_support import check_cached_rows, try_shared_prefix, unmaskable_layers, weight_types
from scorl.engines.sampling import sample_tokens, uniform_numbers
from scorl.engines.shared_prefix import cascade_attention, copy_to
from scorl.model.chat import Chat
from scorl.model.layers import is_recurrent
from scorl.model.logprobs import log_probabilities
from scorl.model.policy import Policy
from scorl.settings import TorchSettings

__all__ = ["TorchEngine"]

REFILL = 0.75
"""Waiting rows are admitted once so much of the batch is left: every admission copies the rows that are running."""
PREFILL_TOKENS = 8192
"""Tokens of prompts computed at once, padding included."""
PADDING = 1.25
"""Prompts computed at once differ at most so much in length, unless they are short."""
SHARED_TOKENS = 32
"""Tokens of a prompt from which on its samples share it; shorter ones are copied, which is as fast."""


@dataclass
class TorchEngine:
    """Samples with the policy's own weights, so there is nothing to synchronise.

    Args:
        policy: sampled as it stands at each call.
        batch_size: most rows decoded at once.
        prefix_cache_bytes: most memory for what one turn caches for the next.
    """

    policy: Policy
    batch_size: int = 256
    prefix_cache_bytes: int = TorchSettings.prefix_cache_bytes
    arithmetic: ClassVar[Arithmetic] = "same"
    _prefixes: PrefixCache | None = field(default=None, init=False, repr=False)
    _fingerprint: tuple[float, ...] = field(default=(), init=False, repr=False)
    """Of the weights that `_prefixes` was computed with."""
    _shares_prompts: dict[frozenset[torch.dtype], bool] = field(default_factory=dict, init=False, repr=False)
    """By the types of the weights."""

    @property
    def chat(self) -> Chat:
        """The chat of the policy."""
        return self.policy.chat

    def sample(
        self, requests: Sequence[Request], *, temperature: float, max_tokens: int, keep: bool = False
    ) -> list[Sample]:
        """See `scorl.engines.engine.Engine.sample`."""
        return self._sample(requests, temperature, max_tokens, keep)

    def stream(
        self, request: Request, show: Callable[[str], None], *, temperature: float, max_tokens: int, keep: bool = False
    ) -> Sample:
        """See `scorl.engines.engine.Streaming.stream`."""
        text = ShownText(self.chat, show)
        (sample,) = self._sample([request], temperature, max_tokens, keep, lambda ids: text.grow(ids[0]))
        text.grow(sample.ids, ended=True)
        return sample

    def _sample(
        self, requests: Sequence[Request], temperature: float, max_tokens: int, keep: bool, watch: Watch | None = None
    ) -> list[Sample]:
        share = self._can_share_prompts()
        attention = cascade_attention(self.policy.decoder) if share else nullcontext()
        # In inference mode autocast caches nothing, and would cast all weights anew for every token.
        no_gradients = torch.inference_mode if self.policy.dtype == torch.float32 else torch.no_grad
        with no_gradients(), self.policy.precision(), attention:
            last_turn, this_turn = self._prefix_caches(keep)
            budgets = token_budgets(requests, max_tokens, self.policy.max_positions)
            call = _Call(self.policy, requests, budgets, temperature, last_turn, this_turn, share)
            samples = call.run(self.batch_size, watch)
            if this_turn is not None:
                this_turn.finish()
        self._prefixes = this_turn
        return samples

    def _prefix_caches(self, keep: bool) -> tuple[PrefixCache | None, PrefixCache | None]:
        """What the last call cached, if the weights are still the same, and a cache for this one."""
        keep = keep and not unmaskable_layers(self.policy.decoder.config.get_text_config())
        if self._prefixes is None and not keep:
            return None, None  # without the fingerprint, which reads all weights
        fingerprint = self.policy.fingerprint()
        last_turn = self._prefixes = self._prefixes if fingerprint == self._fingerprint else None
        self._fingerprint = fingerprint
        return last_turn, PrefixCache(self.prefix_cache_bytes) if keep else None

    def _can_share_prompts(self) -> bool:
        """Whether samples may share their prompt's keys and values: tried once, for models differ.

        Once more where weights are held in other types, as a reference's in the policy's place: the trial is another.
        """
        types = weight_types(self.policy)
        if not self._shares_prompts:
            check_cached_rows(self.policy)
        if types not in self._shares_prompts:
            fault = try_shared_prefix(self.policy)
            if fault:
                again = unmaskable_layers(self.policy.decoder.config.get_text_config())
                slower = ", and later turns compute their whole prompt again" if again else ""
                warnings.warn(
                    f"this model {fault}, so each sample copies its prompt's keys and values{slower}", stacklevel=3
                )
            self._shares_prompts[types] = fault is None
        return self._shares_prompts[types]


@dataclass
class _RunningBatch:
    """The rows that are being decoded."""

    rows: CachedRows
    index: list[int]
    """Which request each row answers."""
    number: Tensor
    """Where among all uniform numbers each row's next one stands, [rows]."""
    logits: Tensor

    def drop_rows(self, ended: Sequence[int]) -> Tensor:
        """Let rows go; returns which row now stands in each place."""
        order, places = self.rows.drop_rows(ended)
        self.index, self.number = [self.index[row] for row in order], self.number[places]
        return places


class _Call:
    """One call of `sample`."""

    def __init__(
        self,
        policy: Policy,
        requests: Sequence[Request],
        budgets: Sequence[int],
        temperature: float,
        last_turn: PrefixCache | None,
        this_turn: PrefixCache | None,
        share_prompts: bool,
    ) -> None:
        self.share_prompts = share_prompts
        self.decoder, self.device = policy.decoder, policy.device
        self.requests, self.temperature, self.last_turn, self.this_turn = requests, temperature, last_turn, this_turn
        self.chat, self.budgets = policy.chat, budgets
        self.pads = not is_recurrent(self.decoder.config)  # the state of a recurrent layer would take padding in
        # Drawn ahead for every token that may come: a row's n-th token always takes its seed's n-th number, whichever
        # rows are decoded beside it.
        self.most = max(budgets, default=0)
        numbers = [uniform_numbers(r.seed, self.most) for r in requests]
        self.uniform = torch.from_numpy(np.concatenate(numbers)).to(self.device) if numbers else torch.empty(0)
        self.ids: list[list[int]] = [[] for _ in requests]
        self.logprobs: list[list[float]] = [[] for _ in requests]

    def run(self, batch_size: int, watch: Watch | None = None) -> list[Sample]:
        """Decode all requests; the short ones first, so that prompts of one length are computed together."""
        waiting = [i for i in range(len(self.requests)) if self.budgets[i]]
        waiting.sort(key=lambda i: len(self.requests[i].prompt_ids), reverse=True)
        batch: _RunningBatch | None = None
        while waiting or batch:
            running = len(batch.index) if batch else 0
            if waiting and running <= REFILL * batch_size:
                free = batch_size - running
                admitted, waiting = waiting[-free:][::-1], waiting[:-free]
                batch = self._admit(batch, admitted)
            assert batch is not None
            batch = self._step(batch)
            if watch:
                watch(self.ids)
        return [
            Sample(tuple(ids), tuple(logprobs), "stop" if ids and self.chat.ends(ids) else "length")
            for ids, logprobs in zip(self.ids, self.logprobs, strict=True)
        ]

    def _step(self, batch: _RunningBatch) -> _RunningBatch | None:
        """Draw a token for every row; those that end leave, the others compute theirs."""
        logprobs = log_probabilities(batch.logits, self.temperature)
        drawn = sample_tokens(logprobs, self.uniform[batch.number], self.temperature)
        batch.number += 1
        if ended := self._read(batch, drawn, logprobs.gather(1, drawn[:, None])[:, 0]):
            self._cache(batch, ended)
            if len(ended) == len(batch.index):
                return None
            drawn = drawn[batch.drop_rows(ended)]
        batch.logits = batch.rows.extend(self.decoder, drawn[:, None])
        return batch

    def _read(self, batch: _RunningBatch, drawn: Tensor, chosen: Tensor) -> list[int]:
        """Take down the tokens that were drawn, with their log-probabilities; the rows that end with them.

        The one place where every token waits for the device.
        """
        ended = []
        ids, logprobs = torch.stack((drawn.double(), chosen)).tolist()  # float64 holds both as they are
        for row, (i, token, logprob) in enumerate(zip(batch.index, map(int, ids), logprobs, strict=True)):
            self.ids[i].append(token)
            self.logprobs[i].append(logprob)
            if self.chat.ends(self.ids[i]) or len(self.ids[i]) == self.budgets[i]:
                ended.append(row)
        return ended

    def _cache(self, batch: _RunningBatch, ended: Sequence[int]) -> None:
        """Cache what was computed of rows that leave: all but the token drawn last, which nothing was drawn behind."""
        if self.this_turn is not None:
            leaving = [batch.index[row] for row in ended]
            tokens = [(*self.requests[i].prompt_ids, *self.ids[i][:-1]) for i in leaving]
            self.this_turn.add(batch.rows, ended, tokens)

    def _admit(self, batch: _RunningBatch | None, admitted: Sequence[int]) -> _RunningBatch:
        """The batch with more requests in it, each distinct prompt of which is computed once."""
        prompts = list(dict.fromkeys(self.requests[i].prompt_ids for i in admitted))
        parts = [(batch.rows, torch.arange(len(batch.index)))] if batch else []
        logits = [batch.logits] if batch else []
        index = list(batch.index) if batch else []
        for group, rows, last_logits in self._prefill(prompts):
            place = {prompt: row for row, prompt in enumerate(group)}
            answered = [i for i in admitted if self.requests[i].prompt_ids in place]
            chosen = parent = torch.tensor([place[self.requests[i].prompt_ids] for i in answered])
            # Of few rows a prompt, most slots that a shared prefix has for them would be empty. And rows that continue
            # a forked row have a prefix already: there is no prefix of a prefix.
            shared = len(answered) >= 2 * len(group) and rows.prefix is None
            if self.share_prompts and shared and len(group[0]) >= SHARED_TOKENS:
                rows, chosen = rows.fork(parent), torch.arange(len(answered))
            parts.append((rows, chosen))
            logits.append(last_logits[copy_to(self.device, parent)])
            index += answered
        alone = len(parts) == 1 and torch.equal(parts[0][1], torch.arange(len(parts[0][0].own)))
        rows = parts[0][0] if alone else concatenate_rows(parts)
        number = torch.tensor([i * self.most + len(self.ids[i]) for i in index])
        return _RunningBatch(rows, index, copy_to(self.device, number), torch.cat(logits))

    def _prefill(
        self, prompts: Sequence[tuple[int, ...]]
    ) -> Iterator[tuple[list[tuple[int, ...]], CachedRows, Tensor]]:
        """Prompts in groups of about one length, with their computed rows and the logits behind them."""
        cached = {prompt: self.last_turn.find(prompt) if self.last_turn else None for prompt in prompts}
        computed = {prompt: hit[0] if hit else 0 for prompt, hit in cached.items()}
        for group in _group_by_length(computed, PADDING if self.pads else 1):
            rows = CachedRows.empty(self.decoder, torch.zeros(len(group), 0, dtype=torch.long, device=self.device))
            if hits := [(hit[1], hit[2]) for prompt in group if (hit := cached[prompt])]:
                batches = [(batch, [row for _, row in same]) for batch, same in groupby(hits, key=itemgetter(0))]
                rows = concatenate_rows([(batch, torch.tensor(some)) for batch, some in batches])
            ids, mask = _pad_left([prompt[computed[prompt] :] for prompt in group])
            yield group, rows, rows.extend(self.decoder, copy_to(self.device, ids), mask)


def _group_by_length(computed: dict[tuple[int, ...], int], padding: float) -> Iterator[list[tuple[int, ...]]]:
    """Prompts whose rests are computed together: all from their beginning or all continued, and of about one length.

    `computed` is how many of each prompt's tokens need not be computed; at a `padding` of 1 lengths are the same.
    """
    rest = {prompt: len(prompt) - start for prompt, start in computed.items()}
    group: list[tuple[int, ...]] = []
    for prompt in sorted(computed, key=lambda p: (computed[p] > 0, rest[p])):
        size = rest[prompt] * (len(group) + 1)
        if group and (
            (computed[prompt] > 0) != (computed[group[0]] > 0)
            or size > PREFILL_TOKENS
            or ((size > PREFILL_TOKENS / 8 or padding == 1) and rest[prompt] > padding * rest[group[0]])
        ):
            yield group
            group = []
        group.append(prompt)
    if group:
        yield group


def _pad_left(rows: Sequence[tuple[int, ...]]) -> tuple[Tensor, Tensor]:
    """Ids and their mask, [rows, columns] each."""
    longest = max(map(len, rows))
    ids, mask = torch.zeros(2, len(rows), longest, dtype=torch.long)
    for place, tokens in enumerate(rows):
        ids[place, longest - len(tokens) :] = torch.tensor(tokens)
        mask[place, longest - len(tokens) :] = 1
    return ids, mask
