"""The check behind every transfer of weights: does the sampler now say what the learner says?"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from scorl.errors import GuardError
from scorl.model.logprobs import log_probabilities
from scorl.model.policy import Policy, final_logits, hidden_states
from scorl.trajectory import user

__all__ = ["check_sync", "policy_logprobs", "probe_ids"]

LENGTH = 160
"""Tokens of the probe: more than a block of the prefix cache, so that a stale one would be found."""
LIMITS = {torch.float32: 1e-3, torch.bfloat16: 0.3, torch.float16: 0.1}
"""The largest difference on a token's log-probability that is rounding, by the type that is computed in."""


def probe_ids(policy: Policy, limit: int | None) -> tuple[int, ...]:
    """A fixed question, again and again, of at most `LENGTH` tokens and one less than fit the model."""
    question = policy.chat.prompt((user("What is 2 + 3? Answer, then check the answer."),))
    length = LENGTH if limit is None else min(LENGTH, limit - 1)
    return (question * -(-length // len(question)))[:length]


@torch.no_grad()
def policy_logprobs(policy: Policy, ids: Sequence[int]) -> list[float]:
    """The policy's own log-probabilities of every token but the first, at temperature 1."""
    row = torch.tensor([ids], device=policy.device)
    with policy.precision():
        logits = final_logits(policy.decoder, hidden_states(policy.decoder, row, torch.ones_like(row)))
    logprobs: list[float] = log_probabilities(logits[0, :-1], 1.0).gather(1, row[0, 1:, None])[:, 0].tolist()
    return logprobs


def check_sync(
    policy_logprobs: Sequence[float], server_logprobs: Sequence[float], limit: float | None, dtype: torch.dtype
) -> float:
    """The largest difference between what policy and server say of the same tokens.

    Raises:
        GuardError: it is above the limit (None: `LIMITS` of the dtype), or no number.
    """
    limit = LIMITS[dtype] if limit is None else limit
    gaps = torch.tensor(policy_logprobs).sub(torch.tensor(server_logprobs)).abs()
    gap = float(gaps.max())
    if not gap <= limit:  # so written that no number is above it too
        raise GuardError(
            f"after the weights were sent, vLLM and the learner differ by {gap:.3g} on a token's log-probability "
            f"(by more than {limit:g} on {int((gaps > limit).sum())} of {len(gaps)} tokens), so it would sample from "
            "another policy: weights that did not arrive, a stale output head or prefix cache, or another dtype. "
            "engine.max_sync_gap sets the limit"
        )
    return gap
