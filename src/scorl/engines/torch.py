"""The embedded engine: batched sampling on any Hugging Face decoder, each distinct token computed once.

A distinct prompt is computed once and shared out to its samples; a later turn goes on from the keys and values of the
turn before. Rows that have ended leave at once, and waiting ones take their places. A row's draws come from a
counter-based generator keyed by its own seed, one uniform number a token, so that they do not depend on the batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scorl.engines.engine import Request, Sample, token_budgets
from scorl.engines.kv_cache import Kept, Rows, joined
from scorl.engines.sampling import draw, uniforms
from scorl.engines.shared_prefix import trunk_attention
from scorl.model.chat import Chat
from scorl.model.logprobs import log_probabilities
from scorl.model.policy import Policy

__all__ = ["TorchEngine"]

REFILL = 0.75
"""Waiting rows enter once so much of the batch is left: every entrance copies the others."""
PREFILL_TOKENS = 8192
"""Tokens of prompts computed at once, padding included."""
PADDING = 1.25
"""Prompts computed at once differ at most so much in length, unless they are short."""
TRUNK = 32
"""Tokens of a prompt from which on its samples share it; shorter ones are copied, which is as fast."""
KEPT_BYTES = 2 << 30
"""Keys and values kept between two turns."""


@dataclass
class TorchEngine:
    """Samples with the policy's own weights, so there is nothing to synchronise.

    Args:
        policy: sampled as it stands at each call.
        batch_size: most rows decoded at once.
        kept_bytes: most memory for what one turn keeps for the next.
    """

    policy: Policy
    batch_size: int = 256
    kept_bytes: int = KEPT_BYTES
    _kept: Kept | None = field(default=None, init=False, repr=False)
    _weights: tuple[float, ...] = field(default=(), init=False, repr=False)
    """The fingerprint of the weights that `_kept` was computed with."""
    _branching: bool | None = field(default=None, init=False, repr=False)

    @property
    def chat(self) -> Chat:
        """The chat of the policy."""
        return self.policy.chat

    def load(self) -> None:
        """Nothing to take over."""

    def sample(
        self, requests: Sequence[Request], *, temperature: float, max_tokens: int, keep: bool = False
    ) -> list[Sample]:
        """See `scorl.engines.engine.Engine.sample`."""
        branches = self._branches()
        attention = trunk_attention(self.policy.decoder) if branches else nullcontext()
        with torch.inference_mode(), self.policy.precision(), attention:
            known, kept = self._memory(keep)
            budgets = token_budgets(requests, max_tokens, self.policy.max_positions)
            call = _Call(self.policy, requests, budgets, temperature, known, kept, branches)
            samples = call.run(self.batch_size)
        self._kept = kept
        return samples

    def _memory(self, keep: bool) -> tuple[Kept | None, Kept | None]:
        """What may be gone on from, and where to keep what this call computes."""
        if keep and (reason := _why_not_kept(self.policy.decoder.config.get_text_config())):
            warnings.warn(f"later turns compute their whole prompt again, since this model has {reason}", stacklevel=3)
            keep = False
        if self._kept is None and not keep:
            return None, None
        weights = self.policy.fingerprint()
        known = self._kept if weights == self._weights else None
        self._weights = weights
        return known, Kept(self.kept_bytes) if keep else None

    def _branches(self) -> bool:
        """Whether samples may share their prompt's keys and values: tried once, for models differ."""
        if self._branching is None:
            reason = _why_not_branched(self.policy)
            if reason:
                warnings.warn(
                    f"each sample copies its prompt's keys and values, since this model {reason}", stacklevel=3
                )
            self._branching = reason is None
        return self._branching


def _why_not_kept(config: Any) -> str | None:
    """Why rows with holes between their columns would be computed wrongly; None: they are not."""
    odd = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    if odd:
        return f"layers of the kind {', '.join(sorted(odd))}"
    windowed = getattr(config, "sliding_window", None) is not None and getattr(config, "use_sliding_window", True)
    return "a sliding window" if windowed else None


def _why_not_branched(policy: Policy) -> str | None:
    """Why samples cannot share their prompt's keys and values, in words; None: they can."""
    config = policy.decoder.config.get_text_config()
    if reason := _why_not_kept(config):
        return f"has {reason}"
    if config._attn_implementation != "sdpa":
        return f"attends by '{config._attn_implementation}', not 'sdpa'"
    prompt, more = torch.tensor([[1, 2, 3]], device=policy.device), torch.tensor([[2], [3]], device=policy.device)
    both = torch.tensor([0, 0], device=policy.device)
    with torch.inference_mode(), policy.precision(), trunk_attention(policy.decoder):
        rows = Rows(prompt[:, :0])
        rows.extend(policy.decoder, prompt)
        plain = joined([(rows, both)]).extend(policy.decoder, more)
        try:
            ours = rows.branched(both).extend(policy.decoder, more)
        except Exception as error:  # a model may refuse in any way; copies remain
            return f"raised {type(error).__name__}: {error}"
    same = torch.allclose(plain.float(), ours.float(), atol=1e-3, rtol=1e-3)
    return None if same else "attends to them otherwise"


@dataclass
class _Flight:
    """The rows that are being decoded."""

    rows: Rows
    index: Tensor
    """Which request each row answers."""
    count: Tensor
    """Tokens that each row has drawn."""
    logits: Tensor

    def shrink(self, stays: Tensor) -> Tensor:
        """Let rows leave; which row now stands in each place."""
        places = self.rows.shrink(stays)
        self.index, self.count = self.index[places], self.count[places]
        return places


class _Call:
    """One call of `sample`."""

    def __init__(
        self,
        policy: Policy,
        requests: Sequence[Request],
        rooms: Sequence[int],
        temperature: float,
        known: Kept | None,
        kept: Kept | None,
        branches: bool,
    ) -> None:
        self.branches = branches
        self.decoder, self.device = policy.decoder, policy.device
        self.requests, self.temperature, self.known, self.kept = requests, temperature, known, kept
        self.ends = torch.tensor(sorted(policy.chat.end_ids), device=self.device)
        self.rooms = torch.tensor(rooms, device=self.device)
        draws = [uniforms(r.seed, max(rooms, default=0)) for r in requests]
        self.uniform = torch.from_numpy(np.stack(draws)).to(self.device) if draws else torch.empty(0)
        self.ids: list[list[int]] = [[] for _ in requests]
        self.logprobs: list[list[float]] = [[] for _ in requests]

    def run(self, batch_size: int) -> list[Sample]:
        """Decode all requests; the short ones first, so that prompts of one length are computed together."""
        waiting = [i for i in range(len(self.requests)) if self.rooms[i]]
        waiting.sort(key=lambda i: len(self.requests[i].prompt_ids), reverse=True)
        flight: _Flight | None = None
        while waiting or flight:
            living = len(flight.index) if flight else 0
            if waiting and living <= REFILL * batch_size:
                free = batch_size - living
                entering, waiting = waiting[-free:][::-1], waiting[:-free]
                flight = self._entered(flight, entering)
            assert flight is not None
            flight = self._step(flight)
        stopped = set(self.ends.tolist())
        return [
            Sample(tuple(ids), tuple(logprobs), "stop" if ids and ids[-1] in stopped else "length")
            for ids, logprobs in zip(self.ids, self.logprobs, strict=True)
        ]

    def _step(self, flight: _Flight) -> _Flight | None:
        """Draw a token for every row; those that end leave, the others compute theirs."""
        scores = log_probabilities(flight.logits, self.temperature)
        drawn = draw(scores, self.uniform[flight.index, flight.count], self.temperature)
        chosen = scores.gather(1, drawn[:, None])[:, 0]
        flight.count += 1
        ended = torch.isin(drawn, self.ends) | (self.rooms[flight.index] == flight.count)
        for row, token, logprob in zip(flight.index.tolist(), drawn.tolist(), chosen.tolist(), strict=True):
            self.ids[row].append(token)
            self.logprobs[row].append(logprob)
        if bool(ended.any()):
            self._keep(flight, ended.nonzero()[:, 0])
            if bool(ended.all()):
                return None
            drawn = drawn[flight.shrink(~ended)]
        flight.logits = flight.rows.extend(self.decoder, drawn[:, None])
        return flight

    def _keep(self, flight: _Flight, places: Tensor) -> None:
        """Keep what was computed of rows that leave: all but the token drawn last."""
        if self.kept is not None:
            leaving = flight.index[places].tolist()
            tokens = [(*self.requests[i].prompt_ids, *self.ids[i][:-1]) for i in leaving]
            self.kept.keep(flight.rows.taken(places), tokens)

    def _entered(self, flight: _Flight | None, entering: Sequence[int]) -> _Flight:
        """The flight with more requests in it, each distinct prompt of which is computed once."""
        prompts = list(dict.fromkeys(self.requests[i].prompt_ids for i in entering))
        parts = [(flight.rows, torch.arange(len(flight.index), device=self.device))] if flight else []
        logits = [flight.logits] if flight else []
        index = flight.index.tolist() if flight else []
        for group, rows, last in self._prefilled(prompts):
            place = {prompt: row for row, prompt in enumerate(group)}
            mine = [i for i in entering if self.requests[i].prompt_ids in place]
            copied = share = torch.tensor([place[self.requests[i].prompt_ids] for i in mine], device=self.device)
            shared = len(mine) >= 2 * len(group)  # else most places that a trunk has for its prompts' rows are empty
            if self.branches and shared and len(group[0]) >= TRUNK and rows.trunk is None:
                rows, share = rows.branched(share), torch.arange(len(mine), device=self.device)
            parts.append((rows, share))
            logits.append(last[copied])
            index += mine
        count = torch.tensor([len(self.ids[i]) for i in index], device=self.device)
        whole = torch.arange(len(parts[0][0].mask), device=self.device)
        alone = len(parts) == 1 and torch.equal(parts[0][1], whole)
        rows = parts[0][0] if alone else joined(parts)
        return _Flight(rows, torch.tensor(index, device=self.device), count, torch.cat(logits))

    def _prefilled(self, prompts: Sequence[tuple[int, ...]]) -> Iterator[tuple[list[tuple[int, ...]], Rows, Tensor]]:
        """Prompts in groups of about one length, with their computed rows and the logits behind them."""
        found = {prompt: self.known.find(prompt) if self.known else None for prompt in prompts}
        begun = {prompt: where[0] if where else 0 for prompt, where in found.items()}
        for group in _groups(begun):
            rows = Rows(torch.zeros(len(group), 0, dtype=torch.long, device=self.device))
            if held := [(where[1], where[2]) for prompt in group if (where := found[prompt])]:
                together = [(kept, [row for _, row in same]) for kept, same in groupby(held, key=itemgetter(0))]
                rows = joined([(kept, torch.tensor(chosen, device=self.device)) for kept, chosen in together])
            ids, mask = _padded([prompt[begun[prompt] :] for prompt in group])
            yield group, rows, rows.extend(self.decoder, ids.to(self.device), mask.to(self.device))


def _groups(begun: dict[tuple[int, ...], int]) -> Iterator[list[tuple[int, ...]]]:
    """Prompts whose rests are computed together: all new or all gone on with, and of about one length."""
    rest = {prompt: len(prompt) - start for prompt, start in begun.items()}
    group: list[tuple[int, ...]] = []
    for prompt in sorted(begun, key=lambda p: (begun[p] > 0, rest[p])):
        size = rest[prompt] * (len(group) + 1)
        if group and (
            (begun[prompt] > 0) != (begun[group[0]] > 0)
            or size > PREFILL_TOKENS
            or (size > PREFILL_TOKENS / 8 and rest[prompt] > PADDING * rest[group[0]])
        ):
            yield group
            group = []
        group.append(prompt)
    if group:
        yield group


def _padded(rows: Sequence[tuple[int, ...]]) -> tuple[Tensor, Tensor]:
    """Left-padded ids and their mask, [rows, columns] each."""
    longest = max(map(len, rows))
    ids, mask = torch.zeros(2, len(rows), longest, dtype=torch.long)
    for place, tokens in enumerate(rows):
        ids[place, longest - len(tokens) :] = torch.tensor(tokens)
        mask[place, longest - len(tokens) :] = 1
    return ids, mask
