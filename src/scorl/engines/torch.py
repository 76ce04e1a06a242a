"""The embedded engine: batched sampling with a KV cache on any Hugging Face decoder.

Each distinct prompt of a batch is prefilled once and its cache shared out to its samples; rows that have ended
leave the batch. A row's draws come from a counter-based generator keyed by its own seed, one uniform number a
token, so that they do not depend on the rest of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from scorl.engines.engine import Request, Sample
from scorl.logits import log_probabilities
from scorl.policy import Policy

__all__ = ["TorchEngine"]

_COMPACT_BELOW = 0.75
"""Ended rows leave once the living are fewer than this share: each departure copies the cache."""


@dataclass(frozen=True)
class TorchEngine:
    """Samples with the policy's own weights, so there is nothing to synchronise.

    Args:
        policy: sampled as it stands at each call.
        batch_size: most rows decoded at once.
    """

    policy: Policy
    batch_size: int = 256

    def sample(self, requests: Sequence[Request], *, temperature: float, max_tokens: int) -> list[Sample]:
        """See `scorl.engines.engine.Engine.sample`."""
        room = [self._room(request, max_tokens) for request in requests]
        samples = {i: Sample((), (), "length") for i, tokens in enumerate(room) if tokens == 0}
        order = sorted((i for i in range(len(requests)) if room[i]), key=lambda i: len(requests[i].prompt_ids))
        with torch.inference_mode(), self.policy.precision():
            for start in range(0, len(order), self.batch_size):
                chosen = order[start : start + self.batch_size]
                drawn = self._batch([requests[i] for i in chosen], [room[i] for i in chosen], temperature)
                samples.update(zip(chosen, drawn, strict=True))
        return [samples[i] for i in range(len(requests))]

    def _batch(self, requests: list[Request], room: list[int], temperature: float) -> list[Sample]:
        decoder, device = self.policy.decoder, self.policy.device
        ends = torch.tensor(sorted(self.policy.chat.end_ids), device=device)
        most = max(room)
        rooms = torch.tensor(room, device=device)
        uniform = torch.from_numpy(np.stack([_uniforms(r.seed, most) for r in requests])).to(device)
        rows = _prefill(decoder, requests, device)
        ids: list[list[int]] = [[] for _ in requests]
        logprobs: list[list[float]] = [[] for _ in requests]
        for position in range(most):
            scores = log_probabilities(rows.logits, temperature)
            drawn = _draw(scores, uniform[rows.index, position], temperature)
            chosen = scores.gather(1, drawn[:, None])[:, 0]
            done = torch.isin(drawn, ends) | (rooms[rows.index] == position + 1)
            for row, token, score, dead in zip(
                rows.index.tolist(), drawn.tolist(), chosen.tolist(), rows.ended.tolist(), strict=True
            ):
                if not dead:
                    ids[row].append(token)
                    logprobs[row].append(score)
            rows.ended |= done
            if bool(rows.ended.all()):
                break
            drawn = _compact(rows, drawn)
            _advance(decoder, rows, drawn)
        stopped = set(ends.tolist())
        return [
            Sample(tuple(i), tuple(lp), "stop" if i and i[-1] in stopped else "length")
            for i, lp in zip(ids, logprobs, strict=True)
        ]

    def _room(self, request: Request, max_tokens: int) -> int:
        """How many tokens a response may take; 0 where the prompt alone fills the model's positions."""
        limit = self.policy.max_positions
        return max_tokens if limit is None else max(0, min(max_tokens, limit - len(request.prompt_ids)))


@dataclass
class _Rows:
    """The batch while it is decoded; `index` says which request each row still here belongs to."""

    index: Tensor
    logits: Tensor
    cache: Any
    mask: Tensor
    ended: Tensor


def _prefill(decoder: Any, requests: list[Request], device: torch.device) -> _Rows:
    """Run each distinct prompt once, left-padded, and give every request a row of its own."""
    prompts = list(dict.fromkeys(r.prompt_ids for r in requests))
    longest = max(map(len, prompts))
    ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask = torch.zeros(len(prompts), longest, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    ids, mask = ids.to(device), mask.to(device)
    cache = DynamicCache()
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    logits = decoder(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    ).logits[:, -1]
    place = {prompt: row for row, prompt in enumerate(prompts)}
    share = torch.tensor([place[r.prompt_ids] for r in requests], device=device)
    if len(prompts) < len(requests):
        cache.batch_select_indices(share)
    index = torch.arange(len(requests), device=device)
    return _Rows(index, logits[share], cache, mask[share], torch.zeros_like(index, dtype=torch.bool))


def _compact(rows: _Rows, drawn: Tensor) -> Tensor:
    """Let ended rows leave the batch once they are many."""
    alive = ~rows.ended
    if int(alive.sum()) >= _COMPACT_BELOW * len(alive):
        return drawn
    keep = alive.nonzero()[:, 0]
    rows.cache.batch_select_indices(keep)
    rows.index, rows.mask, rows.ended = rows.index[keep], rows.mask[keep], rows.ended[keep]
    return drawn[keep]


def _advance(decoder: Any, rows: _Rows, drawn: Tensor) -> None:
    """One decoding step: the drawn tokens in, the next logits out."""
    rows.mask = torch.cat([rows.mask, torch.ones_like(rows.mask[:, :1])], dim=1)
    rows.logits = decoder(
        input_ids=drawn[:, None],
        attention_mask=rows.mask,
        position_ids=rows.mask.sum(1, keepdim=True) - 1,
        past_key_values=rows.cache,
        use_cache=True,
        logits_to_keep=1,
    ).logits[:, -1]


def _draw(scores: Tensor, uniform: Tensor, temperature: float) -> Tensor:
    """Draw by inverting the cumulative distribution, in float64 so that large vocabularies lose nothing."""
    if temperature == 0:
        return scores.argmax(-1)
    cumulative = scores.double().exp().cumsum(-1)
    below = cumulative < (uniform * cumulative[:, -1])[:, None]
    return below.sum(-1).clamp(max=scores.shape[-1] - 1)


def _uniforms(seed: int, count: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.random.Generator(np.random.Philox(key=seed)).random(count)
