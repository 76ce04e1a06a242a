"""Log-probabilities and KL at the tokens that carry loss, in chunks: never a [rows, tokens, vocabulary] block."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from scorl.learner.attention import tree_hidden_states
from scorl.learner.batch import MicroBatch, PaddedRows
from scorl.learner.loss import kl_per_token
from scorl.learner.tree import Tree
from scorl.model.logprobs import log_probabilities
from scorl.model.policy import Policy, final_logits
from scorl.model.policy import hidden_states as padded_hidden_states
from scorl.model.reference import Reference
from scorl.settings import LearnerSettings

__all__ = ["LOGITS_PER_CHUNK", "hidden_states", "logprobs_and_kl", "predictions_per_chunk"]

LOGITS_PER_CHUNK = 2**24
"""Logits that exist at once, in numbers: 64 MiB in float32."""


def hidden_states(decoder: Any, layout: PaddedRows | Tree) -> Tensor:
    """The last hidden states of all tokens, [tokens, width]."""
    if isinstance(layout, Tree):
        return tree_hidden_states(decoder, layout)
    return padded_hidden_states(decoder, layout.ids, layout.mask).flatten(0, 1)


def predictions_per_chunk(decoder: Any) -> int:
    """The predictions whose logits exist at once."""
    return max(1, LOGITS_PER_CHUNK // int(decoder.get_output_embeddings().weight.shape[0]))


def logprobs_and_kl(
    policy: Policy,
    reference: Reference | None,
    batch: MicroBatch,
    hidden: Tensor,
    ref_hidden: Tensor | None,
    temperature: float,
    settings: LearnerSettings,
) -> tuple[Tensor, Tensor | None]:
    """log pi(y_j) and KL_j at each loss token, [tokens] each, with gradient.

    Args:
        policy: the model that learns.
        reference: None skips the KL.
        batch: the loss tokens; more than `predictions_per_chunk` are computed again in the backward pass.
        hidden: the policy's `hidden_states`.
        ref_hidden: the reference's.
        temperature: the sampling temperature; both log-probabilities are taken at it.
        settings: the KL estimator.
    """

    def chunk(hidden: Tensor, ref_hidden: Tensor | None, target: Tensor) -> tuple[Tensor, Tensor | None]:
        logprobs = log_probabilities(final_logits(policy.decoder, hidden), temperature)
        chosen = logprobs.gather(1, target[:, None])[:, 0]
        if ref_hidden is None or reference is None:
            return chosen, None
        with torch.no_grad():
            ref_logprobs = log_probabilities(final_logits(reference.head, ref_hidden), temperature)
        return chosen, kl_per_token(settings.kl, logprobs, ref_logprobs, target)

    size = predictions_per_chunk(policy.decoder)
    chunks = []
    for start in range(0, len(batch.target), size):
        position, target = batch.position[start : start + size], batch.target[start : start + size]
        chunks.append((hidden[position], None if ref_hidden is None else ref_hidden[position], target))
    # Autograd keeps what log-softmax and the exact KL need, [predictions, vocabulary] several times over. For one chunk
    # that is the bound we want; of several, each is forgotten and computed again when its gradient is taken.
    single = len(chunks) == 1
    parts = [chunk(*c) if single else checkpoint(chunk, *c, use_reentrant=False) for c in chunks]
    logprobs = torch.cat([logprobs for logprobs, _ in parts])[batch.prediction]
    kl = [kl for _, kl in parts if kl is not None]
    return logprobs, torch.cat(kl)[batch.prediction] if kl else None
