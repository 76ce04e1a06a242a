"""The one loss, and its one reduction: sums over a response's tokens, the mean over the step's trajectories.

For the tokens y_j of a response with credit (A, beta, m), and N trajectories in the step (all micro-batches, all
ranks),

    loss = 1/N sum over responses, j of  -w_j (A - beta G_j) log pi(y_j)  +  beta KL_j  -  m log pi(y_j)

where KL_j estimates KL(pi || pi_ref) at token j and G_j, without gradient, is the KL still to come in the response
after token j: writing y_j leads there. With exact KL_j this is the unbiased gradient of the KL between whole
responses. `kl_in` drops one of the two parts: `loss` drops G_j, `reward` drops the term beta KL_j and lets G_j
include KL_j itself. N does not depend on how the step is cut into micro-batches, so neither does the gradient.

w_j is 1 unless the sampler is another engine than the learner's own; then it is `importance`.

The estimators, with d = log pi(y_j) - log pi_ref(y_j):

    exact   sum over the vocabulary of pi (log pi - log pi_ref): unbiased, no variance from the draw
    k1      d: unbiased value, but as a loss its gradient is zero on average; it belongs into the reward
    k2      d^2 / 2: biased value, yet as a loss its gradient is unbiased (that of KL_j)
    k3      exp(-d) - 1 + d: unbiased value, but as a loss its gradient is that of another divergence,
            KL(pi_ref || pi), and exp(-d) can overflow where the policies are far apart
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from scorl.learner.batch import MicroBatch
from scorl.settings import LearnerSettings

__all__ = ["estimate_kl", "importance", "kl_to_go", "loss"]


def estimate_kl(kind: Literal["k1", "k2", "k3"], policy: Tensor, reference: Tensor) -> Tensor:
    """An estimate of KL(pi || pi_ref) at each token, [tokens], from the token's log-probabilities, [tokens]."""
    d = policy - reference
    if kind == "k1":
        return d
    return d.square() / 2 if kind == "k2" else torch.expm1(-d) + d


def kl_to_go(kl: Tensor, batch: MicroBatch, *, inclusive: bool) -> Tensor:
    """For each token the sum of its response's KL after it (or from it on), without gradient; [tokens]."""
    running = kl.detach().double().cumsum(0)
    ends = running[batch.length.cumsum(0) - 1]
    rest = ends[batch.response] - running
    return (rest + kl.detach() if inclusive else rest).to(kl.dtype)


def importance(logprobs: Tensor, sampled: Tensor, cap: float | Literal["auto"] | None) -> Tensor | float:
    """min(pi(y_j) / mu(y_j), cap) for each token, [tokens], without gradient: mu is what the sampler says it drew from.
    Without a number as the cap, 1.

    By token and truncated, after Yao et al. 2025, "Your Efficient RL Framework Secretly Brings You Off-Policy RL
    Training". Exact is the product over all tokens up to y_j, untruncated; its variance grows with their number.
    """
    if cap is None or cap == "auto":
        return 1.0
    return (logprobs.detach() - sampled).exp().clamp(max=cap)


def loss(
    batch: MicroBatch, logprobs: Tensor, kl: Tensor | None, trajectories: int, settings: LearnerSettings
) -> Tensor:
    """The micro-batch's share of the step's loss, a scalar.

    Args:
        batch: the micro-batch.
        logprobs: log pi(y_j), [tokens], with gradient.
        kl: KL_j, [tokens], with gradient; None where no response has a KL coefficient.
        trajectories: N, of the whole step.
        settings: `kl_in`, `kl_over` and `importance_sampling_cap`.
    """
    advantage, imitation = batch.advantage[batch.response], batch.imitation[batch.response]
    penalty = logprobs.new_zeros(())
    if kl is not None:
        beta = batch.beta[batch.response]
        if settings.kl_over == "mean":
            beta = beta / batch.length[batch.response]
        if settings.kl_in != "loss":
            advantage = advantage - beta * kl_to_go(kl, batch, inclusive=settings.kl_in == "reward")
        if settings.kl_in != "reward":
            penalty = (beta * kl).sum()
    advantage = advantage * importance(logprobs, batch.sampled, settings.importance_sampling_cap)
    return (penalty - ((advantage + imitation) * logprobs).sum()) / trajectories
