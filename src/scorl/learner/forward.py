"""Log-probabilities and KL at the tokens that carry loss, in chunks: never a [rows, tokens, vocabulary] block."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from scorl.learner.attention import tree_states
from scorl.learner.batch import MicroBatch, Rows
from scorl.learner.loss import kl_per_token
from scorl.learner.tree import Tree
from scorl.model.logprobs import log_probabilities
from scorl.model.policy import Policy, final_logits, hidden_states
from scorl.model.reference import Reference
from scorl.settings import LearnerSettings

__all__ = ["at_once", "score", "states"]

_CHUNK_NUMBERS = 2**24
"""Logits held at once, in numbers: 64 MiB in float32."""


def states(decoder: Any, layout: Rows | Tree) -> Tensor:
    """The last hidden states of all tokens, [tokens, width]."""
    if isinstance(layout, Tree):
        return tree_states(decoder, layout)
    return hidden_states(decoder, layout.ids, layout.mask).flatten(0, 1)


def at_once(decoder: Any) -> int:
    """The predictions whose logits are held at once."""
    return max(1, _CHUNK_NUMBERS // int(decoder.get_output_embeddings().weight.shape[0]))


def score(
    policy: Policy,
    reference: Reference | None,
    batch: MicroBatch,
    mine: Tensor,
    theirs: Tensor | None,
    temperature: float,
    settings: LearnerSettings,
) -> tuple[Tensor, Tensor | None]:
    """log pi(y_j) and KL_j at each loss token, [tokens] each, with gradient.

    Args:
        policy: the model that learns.
        reference: None skips the KL.
        batch: the loss tokens; more predictions than `at_once` are computed again in the backward pass.
        mine: the policy's `states`.
        theirs: the reference's.
        temperature: the sampling temperature; both log-probabilities are taken at it.
        settings: the KL estimator.
    """

    def chunk(mine: Tensor, theirs: Tensor | None, target: Tensor) -> tuple[Tensor, Tensor | None]:
        scores = log_probabilities(final_logits(policy.decoder, mine), temperature)
        logprobs = scores.gather(1, target[:, None])[:, 0]
        if theirs is None or reference is None:
            return logprobs, None
        with torch.no_grad():
            anchor = log_probabilities(final_logits(reference.head, theirs), temperature)
        return logprobs, kl_per_token(settings.kl, scores, anchor, target)

    size = at_once(policy.decoder)
    chunks = []
    for start in range(0, len(batch.target), size):
        where, target = batch.position[start : start + size], batch.target[start : start + size]
        chunks.append((mine[where], None if theirs is None else theirs[where], target))
    alone = len(chunks) == 1
    parts = [chunk(*c) if alone else checkpoint(chunk, *c, use_reentrant=False) for c in chunks]
    logprobs = torch.cat([logprobs for logprobs, _ in parts])[batch.prediction]
    kl = [kl for _, kl in parts if kl is not None]
    return logprobs, torch.cat(kl)[batch.prediction] if kl else None
