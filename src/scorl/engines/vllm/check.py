"""The check behind every transfer of weights: does the sampler now say what the learner says?

Two ways lead to a log-probability, and each has its own fault: scored anew it shows a layer, a head or an adapter that
did not arrive; behind a prefix that the server keeps, a cache that was not emptied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scorl.errors import GuardError
from scorl.model.head import final_logits, hidden_states
from scorl.model.logprobs import log_probabilities
from scorl.model.policy import Policy
from scorl.trajectory import user

__all__ = ["LIMITS", "Probe", "policy_logprobs"]

TEXT = (
    "A train leaves the station at ten past nine with 48 people on board. At the first stop 13 get off and 7 get on; "
    "at the second, which it reaches after another twenty minutes, half of them leave. How many are still on the "
    "train? Write down each step, then check the answer: start from the end, and put back whoever left. Does it agree "
    "with the number you began with? If it does not, say where the mistake is and correct it. Anna thinks that there "
    "are 21 passengers, Ben says 42, and the driver has counted neither. Explain in two or three sentences who is "
    "right, which of them forgot the first stop, and what the other two would have to change."
)
"""What is scored: not the same over and over, of which a model is so sure that nothing shows."""
LENGTH = 160
"""Tokens of the probe: several blocks of the prefix cache."""
PREFIXES = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
"""Shares of the probe behind which the server gives its next token."""
PROBABLE = 1e-3
"""Of a token that counts: the log-probability of one that is less likely is mostly rounding."""
PERCENTILE = 0.95
LIMITS = {torch.float32: 1e-3, torch.bfloat16: 0.3, torch.float16: 0.04}
"""The 95th percentile of |difference| that is rounding, by the type that is computed in; the mean may be half of it.

SmolLM2-135M computed in half precision against itself under autocast: 0.13 (mean 0.05) in bfloat16, 0.014 (0.005) in
float16; vLLM against it on a CPU in float32: at most 6e-5. Weights of one update before at a rate of 5e-6 come to 0.17
(0.07) in float32, to 0.66 (0.23) in bfloat16, two layers swapped to 1.4 (0.4); docs/vllm.md has the table.
"""


@dataclass(frozen=True)
class Probe:
    """Fixed tokens, and what the policy says of them."""

    ids: tuple[int, ...]
    logprobs: Tensor
    """Of every token but the first, [length - 1]."""
    next_logprobs: Tensor
    """Of every word behind each of the prefixes, [prefixes, vocabulary]."""
    dtype: torch.dtype
    """That the policy computes in."""

    @classmethod
    def of(cls, policy: Policy, max_positions: int | None) -> Probe:
        """By a policy as it stands, at temperature 1; one token less than fits the model, and at most `LENGTH`."""
        prompt = policy.chat.prompt((user(TEXT),))
        length = LENGTH if max_positions is None else min(LENGTH, max_positions - 1)
        ids = (prompt * -(-length // len(prompt)))[:length]
        logprobs = policy_logprobs(policy, ids)
        own = logprobs[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
        return cls(ids, own, logprobs[[end - 1 for end in _lengths(length)]], policy.dtype)

    @property
    def prefixes(self) -> list[tuple[int, ...]]:
        """The beginnings of the probe behind which the server is asked for a token."""
        return [self.ids[:length] for length in _lengths(len(self.ids))]

    def compare(self, scored: Sequence[float], drawn: Sequence[tuple[int, float]], limit: float | None) -> float:
        """The larger 95th percentile of |difference| to the server.

        Args:
            scored: what the server says of every token but the first, computed anew.
            drawn: the token that it gives behind each of the prefixes, with its log-probability.
            limit: of the percentile; None: `LIMITS` of the dtype.

        Raises:
            GuardError: it is above the limit, the mean above half of it, or one of them no number.
        """
        limit = LIMITS[self.dtype] if limit is None else limit
        probable = self.logprobs.exp() >= PROBABLE
        counted = probable if probable.sum() >= len(probable) / 4 else torch.ones_like(probable)
        ids, given = zip(*drawn, strict=True)
        expected = self.next_logprobs.gather(1, torch.tensor(ids)[:, None])[:, 0]
        return max(
            _check((self.logprobs - torch.tensor(scored))[counted], limit, "scored anew"),
            _check(expected - torch.tensor(given), limit, "behind a kept prefix"),
        )


@torch.no_grad()
def policy_logprobs(policy: Policy, ids: Sequence[int]) -> Tensor:
    """The policy's log-probabilities of every word behind each token, [tokens, vocabulary], at temperature 1."""
    row = torch.tensor([ids], device=policy.device)
    with policy.precision():
        logits = final_logits(policy.decoder, hidden_states(policy.decoder, row))
    return log_probabilities(logits[0], 1.0).cpu()


def _lengths(length: int) -> list[int]:
    return [max(1, round(share * length)) for share in PREFIXES]


def _check(differences: Tensor, limit: float, how: str) -> float:
    gaps = differences.abs()
    mean, high = float(gaps.mean()), float(gaps.quantile(PERCENTILE))
    if not (high <= limit and mean <= limit / 2):  # so written that no number is above it too
        raise GuardError(
            f"after the weights were sent, vLLM and the learner differ on the log-probabilities of {len(gaps)} tokens "
            f"{how}: by {mean:.3g} on average (at most {limit / 2:g}), by {high:.3g} at the 95th percentile (at most "
            f"{limit:g}). So it would sample from another policy: weights that did not arrive, a stale output head or "
            "prefix cache, or another dtype. engine.max_sync_gap sets the limit"
        )
    return high
