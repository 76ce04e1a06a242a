"""Log-probabilities and KL at the tokens that carry loss, in chunks: never a [rows, tokens, vocabulary] block."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from scorl.learner.attention import tree_states
from scorl.learner.batch import MicroBatch
from scorl.learner.loss import kl_per_token
from scorl.learner.tree import Tree
from scorl.logits import log_probabilities
from scorl.policy import Policy, final_logits, hidden_states
from scorl.reference import Reference
from scorl.settings import LearnerSettings

__all__ = ["score"]

_CHUNK_NUMBERS = 2**24
"""Logits held at once, in numbers: 64 MiB in float32."""


def score(
    policy: Policy,
    reference: Reference | None,
    batch: MicroBatch,
    temperature: float,
    settings: LearnerSettings,
) -> tuple[Tensor, Tensor | None]:
    """log pi(y_j) and KL_j at each loss token, [tokens] each, with gradient.

    Args:
        policy: the model that learns.
        reference: None skips the KL.
        batch: the micro-batch.
        temperature: the sampling temperature; both log-probabilities are taken at it.
        settings: the KL estimator.
    """
    frozen = None
    if reference is not None:
        with torch.no_grad(), reference.active() as model:
            frozen = _predicting(model, batch)
    hidden = _predicting(policy.decoder, batch)

    def chunk(mine: Tensor, theirs: Tensor | None, target: Tensor) -> tuple[Tensor, Tensor | None]:
        scores = log_probabilities(final_logits(policy.decoder, mine), temperature)
        logprobs = scores.gather(1, target[:, None])[:, 0]
        if theirs is None or reference is None:
            return logprobs, None
        with torch.no_grad():
            anchor = log_probabilities(final_logits(reference.head, theirs), temperature)
        return logprobs, kl_per_token(settings.kl, scores, anchor, target)

    size = max(1, _CHUNK_NUMBERS // policy.decoder.get_output_embeddings().weight.shape[0])
    pieces = [slice(i, i + size) for i in range(0, len(hidden), size)]
    if len(pieces) == 1:
        parts = [chunk(hidden, frozen, batch.target)]
    else:
        parts = [
            checkpoint(chunk, hidden[p], None if frozen is None else frozen[p], batch.target[p], use_reentrant=False)
            for p in pieces
        ]
    logprobs = torch.cat([logprobs for logprobs, _ in parts])[batch.prediction]
    kl = [kl for _, kl in parts if kl is not None]
    return logprobs, torch.cat(kl)[batch.prediction] if kl else None


def _predicting(decoder: Any, batch: MicroBatch) -> Tensor:
    """The hidden states of the predictions, [predictions, width]."""
    layout = batch.layout
    if isinstance(layout, Tree):
        return tree_states(decoder, layout)[batch.position]
    return hidden_states(decoder, layout.ids, layout.mask).flatten(0, 1)[batch.position]
