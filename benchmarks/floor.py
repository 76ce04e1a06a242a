"""The floor: the time that the useful operations take at the matrix rate measured in the same run.

Each distinct token counts once, however it is computed: 2 operations forward for each number of a matrix that it
meets and 4 backward, of which frozen weights do without 2; attention takes 4 forward for each pair of tokens and number
of the queries, and 8 backward. The reference's pass counts too.

Operations that only save memory (logits computed again in the backward pass, checkpoints), the norms, the softmax, the
draw, the optimiser and the layout count as overhead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from common import clock
from torch import Tensor
from torch.nn import functional as F

import scorl
from scorl.learner.batch import micro_batches
from scorl.learner.tree import Tree
from scorl.model.onednn import OnednnLinear, onednn_linear
from scorl.trajectory import TrainingExample

__all__ = ["Work", "least", "matrix_rate", "torch_matrix_rate", "work"]


@dataclass(frozen=True)
class Work:
    """Distinct tokens of a step, those that were written, and the useful operations of its two phases."""

    tokens: int
    written: int
    sampling: float
    learning: float


def work(policy: scorl.Policy, rows: Sequence[TrainingExample]) -> Work:
    """What a step must compute at least."""
    (batch,) = micro_batches(rows, 10**9, "prefix_tree")
    assert isinstance(batch.layout, Tree)
    config, decoder = policy.decoder.config.get_text_config(), policy.decoder
    tokens, pairs = len(batch.layout.ids), int((batch.layout.depth + 1).sum())
    names = dict(decoder.base_model.layers.named_parameters())
    body = sum(p.numel() for name, p in names.items() if p.dim() == 2 and ".lora_" not in name)
    adapters = sum(p.numel() for p in policy.parameters.values()) if policy.lora else 0
    attended = 4 * len(decoder.base_model.layers) * config.num_attention_heads * decoder_head_size(config) * pairs
    head = decoder.get_output_embeddings().weight.numel()
    once = 2 * body * tokens + attended
    times = 3 if policy.lora else 4  # frozen weights have no gradient of their own
    learning = times * (2 * body * tokens + 2 * head * len(batch.position)) + 4 * attended + 6 * adapters * tokens
    sampling = once + 2 * head * len(batch.position.unique()) + 2 * adapters * tokens
    written = sum(len(a.ids) for row in rows for a in row.trajectory.attempts)
    return Work(tokens, written, sampling, learning)


def decoder_head_size(config: Any) -> int:
    """Numbers in the queries of one head."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def matrix_rate(policy: scorl.Policy, tokens: int = 2048) -> float:
    """Operations a second of the model's widest layer on as many tokens as a micro-batch has, by the policy's products
    and in its type."""
    by_onednn = any(isinstance(module, OnednnLinear) for module in policy.model.modules())
    return _rate(policy, policy.dtype, onednn_linear if by_onednn else F.linear, tokens)


def torch_matrix_rate(policy: scorl.Policy, tokens: int = 2048) -> float:
    """The same by torch's own products in float32."""
    return _rate(policy, torch.float32, F.linear, tokens)


def _rate(policy: scorl.Policy, dtype: torch.dtype, by: Callable[[Tensor, Tensor], Tensor], tokens: int) -> float:
    config = policy.decoder.config.get_text_config()
    x, w = torch.randn(tokens, config.hidden_size), torch.randn(config.intermediate_size, config.hidden_size)
    x, w = x.to(policy.device, dtype), w.to(policy.device, dtype)
    operations = 2 * tokens * w.numel()
    return operations / least(lambda: by(x, w), max(1, int(2e9) // operations))


def least(act: Callable[[], Tensor], count: int) -> float:
    """Seconds of a product, the least of five rounds of so many."""
    best = float("inf")
    for _ in range(5):
        began = clock()
        for _ in range(count):
            product = act()
        float(product[0, 0])  # a GPU has done it then
        best = min(best, (clock() - began) / count)
    return best
