"""Whether a model computes a tree as it computes rows: tried before the first update, for models differ."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from scorl.learner.attention import tree_attention
from scorl.learner.batch import micro_batch, training_row
from scorl.learner.forward import hidden_states
from scorl.model.layers import is_recurrent
from scorl.model.policy import Policy
from scorl.settings import Packing
from scorl.trajectory import TrainingExample

__all__ = ["check_tree_support"]

_ROWS = 4
"""Rows that are computed both ways."""
_ROUNDING = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Largest difference of hidden states, relative to their size, that is rounding."""


def check_tree_support(policy: Policy, examples: Sequence[TrainingExample], packing: Packing) -> str | None:
    """Why a model cannot learn from trees (or rows packed like them), in words; None where it can.

    A model is free to ignore the attention that it is told to use, or to add to it what a tree knows nothing of. So
    the longest row and some that share its beginning are computed both ways.
    """
    if is_recurrent(policy.decoder.config):
        return "it has recurrent layers"
    kinds = getattr(policy.decoder.config.get_text_config(), "layer_types", None) or ()
    odd = set(kinds) - {"full_attention", "sliding_attention"}
    if odd:
        return f"it has layers of the kind {', '.join(sorted(odd))}"
    few = _choose_few(examples)
    if not few:
        return None
    try:
        with tree_attention(policy.decoder):
            on_tree = _predicting_states(policy, few, packing)
    except Exception as error:  # a model may refuse in any way; padded rows remain
        return f"it raised {type(error).__name__}: {error}"
    padded = _predicting_states(policy, few, "padded")
    gap = float((on_tree - padded).norm() / padded.norm())
    return f"its hidden states differ by {gap:.1%}" if gap > _ROUNDING[policy.dtype] else None


def _choose_few(examples: Sequence[TrainingExample]) -> list[TrainingExample]:
    """The longest row and the rows before it in order, which share most with it."""
    different = {training_row(example): example for example in examples if training_row(example)}
    ordered = sorted(different)
    longest = max(range(len(ordered)), key=lambda i: len(ordered[i]), default=0)
    start = max(0, longest + 1 - _ROWS)
    return [different[row] for row in ordered[start : start + _ROWS]]


@torch.no_grad()
def _predicting_states(policy: Policy, examples: Sequence[TrainingExample], packing: Packing) -> Tensor:
    """The hidden states that predict the loss tokens, [tokens, width], in the order of the examples.

    They say more than log-probabilities, which are all near 0 for a model that is sure of itself.
    """
    batch = micro_batch(examples, packing)
    with policy.precision():
        hidden = hidden_states(policy.decoder, batch.layout.to(policy.device))
    return hidden[batch.position[batch.prediction].to(policy.device)].float()
