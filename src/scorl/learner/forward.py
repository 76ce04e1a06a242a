"""Log-probabilities and KL at the tokens that carry loss."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from scorl.learner.attention import tree_hidden_states
from scorl.learner.batch import MicroBatch, PaddedRows
from scorl.learner.head import Head, predict
from scorl.learner.loss import estimate_kl
from scorl.learner.tree import Tree
from scorl.model.head import hidden_states as padded_hidden_states
from scorl.settings import LearnerSettings

__all__ = ["hidden_states", "logprobs_and_kl"]


def hidden_states(decoder: Any, layout: PaddedRows | Tree) -> Tensor:
    """The last hidden states of all tokens, [tokens, width]."""
    if isinstance(layout, Tree):
        return tree_hidden_states(decoder, layout)
    return padded_hidden_states(decoder, layout.ids).flatten(0, 1)


def logprobs_and_kl(
    head: Head,
    reference: Head | None,
    batch: MicroBatch,
    hidden: Tensor,
    ref_hidden: Tensor | None,
    temperature: float,
    settings: LearnerSettings,
) -> tuple[Tensor, Tensor | None]:
    """log pi(y_j) and KL_j at each loss token, [tokens] each, with gradient.

    Args:
        head: the policy's.
        reference: the reference's; None skips the KL.
        batch: the loss tokens.
        hidden: the policy's `hidden_states`.
        ref_hidden: the reference's.
        temperature: the sampling temperature; both log-probabilities are taken at it.
        settings: the KL estimator.
    """
    said = predict(
        head,
        reference,
        hidden[batch.position],
        None if ref_hidden is None else ref_hidden[batch.position],
        batch.target,
        temperature,
        exact_kl=settings.kl == "exact",
    )
    logprobs, kl = said.logprobs, said.kl
    if said.ref_logprobs is not None and settings.kl != "exact":
        kl = estimate_kl(settings.kl, logprobs, said.ref_logprobs)
    return logprobs[batch.prediction], None if kl is None else kl[batch.prediction]
