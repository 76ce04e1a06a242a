"""Whether a model computes a tree as it computes rows: tried before the first update, for models differ."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from scorl.learner.attention import tree_attention
from scorl.learner.batch import micro_batch, row_of
from scorl.learner.forward import score, states
from scorl.policy import Policy
from scorl.settings import LearnerSettings, Packing
from scorl.trajectory import Lesson

__all__ = ["why_not_trees"]

_TRIED = 4
"""Rows that are computed both ways."""
_GAP = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Largest mean difference of log-probabilities that is rounding."""


def why_not_trees(policy: Policy, lessons: Sequence[Lesson]) -> str | None:
    """Why a model cannot learn from trees, in words; None where it can.

    A model is free to ignore the attention that it is told to use, or to add to it what a tree knows nothing of. So
    the longest row and some that share its beginning are computed both ways.
    """
    kinds = getattr(policy.decoder.config.get_text_config(), "layer_types", None) or ()
    odd = set(kinds) - {"full_attention", "sliding_attention"}
    if odd:
        return f"it has layers of the kind {', '.join(sorted(odd))}"
    few = _few(lessons)
    if not few:
        return None
    try:
        with tree_attention(policy.decoder):
            ours = _logprobs(policy, few, "tree")
    except Exception as error:  # a model may refuse in any way; plain rows remain
        return f"it raised {type(error).__name__}: {error}"
    gap = float((ours - _logprobs(policy, few, "rows")).abs().mean())
    return f"log-probabilities differ by {gap:.2g} on average" if gap > _GAP[policy.dtype] else None


def _few(lessons: Sequence[Lesson]) -> list[Lesson]:
    """The longest row and those before it in order, which share most with it."""
    ordered = sorted((lesson for lesson in lessons if row_of(lesson)), key=row_of)
    longest = max(range(len(ordered)), key=lambda i: len(row_of(ordered[i])), default=0)
    return ordered[max(0, longest + 1 - _TRIED) : longest + 1]


@torch.no_grad()
def _logprobs(policy: Policy, lessons: Sequence[Lesson], packing: Packing) -> Tensor:
    """Log-probabilities of all loss tokens, [tokens], in the order of the lessons."""
    batch = micro_batch(lessons, packing).to(policy.device)
    with policy.precision():
        return score(policy, None, batch, states(policy.decoder, batch.layout), None, 1.0, LearnerSettings())[0]
