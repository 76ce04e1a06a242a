"""Formulas in their plainest form, as the truth that faster code is held against."""

from __future__ import annotations

from torch import Tensor

from scorl.learner.loss import estimate_kl

__all__ = ["kl_of_rows"]


def kl_of_rows(kind: str, policy: Tensor, reference: Tensor, target: Tensor) -> Tensor:
    """KL(pi || pi_ref) at each token, [tokens], from log-probabilities [tokens, vocabulary]."""
    if kind == "exact":
        return (policy.exp() * (policy - reference)).sum(-1)
    index = target[:, None]
    return estimate_kl(kind, policy.gather(1, index)[:, 0], reference.gather(1, index)[:, 0])  # type: ignore[arg-type]
