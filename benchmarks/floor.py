"""The floor: the time that the useful operations take at the matrix rate measured in the same run.

Each distinct token counts once, however it is computed:

    learning    policy: 6 x parameters of the layers for each token, 6 x those of the head for each prediction (with
                LoRA 4 x frozen parameters and 6 x those of the adapters), 12 x width for each pair of attention;
                reference: a third of that (with LoRA 2 x frozen parameters and a third of the attention)
    sampling    2 x parameters of the layers for each token, 2 x those of the head for each place that is drawn at,
                4 x width for each pair of attention

Operations that only save memory (logits computed again in the backward pass, checkpoints), the norms, the softmax, the
draw, the optimiser and the layout count as overhead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from common import clock

import scorl
from scorl.learner.batch import MicroBatch, micro_batches
from scorl.learner.tree import Tree
from scorl.trajectory import Lesson

__all__ = ["Work", "matrix_rate", "work"]


@dataclass(frozen=True)
class Work:
    """Distinct tokens of a step, those that were written, and the useful operations of its two phases."""

    tokens: int
    written: int
    sampling: float
    learning: float


def work(policy: scorl.Policy, rows: Sequence[Lesson]) -> Work:
    """What a step must compute at least."""
    (batch,) = micro_batches(rows, 10**9, "tree")
    assert isinstance(batch.layout, Tree)
    config = policy.decoder.config.get_text_config()
    head = policy.decoder.get_output_embeddings().weight.numel()
    matrices = {
        n: p.numel() for n, p in policy.decoder.base_model.named_parameters() if p.dim() == 2 and "embed" not in n
    }
    adapters = sum(size for name, size in matrices.items() if "lora_" in name)
    body = sum(matrices.values()) - adapters
    width = config.num_attention_heads * getattr(config, "head_dim", config.hidden_size // config.num_attention_heads)
    tokens = len(batch.layout.ids)
    pairs = width * config.num_hidden_layers * int((batch.layout.depth + 1).sum())
    drawn = len(batch.position.unique())
    written = sum(len(a.ids) for row in rows for a in row.trajectory.attempts)
    sampling = tokens * 2 * (body + adapters) + drawn * 2 * head + 4 * pairs
    return Work(tokens, written, sampling, _learning(batch, tokens, body, head, adapters) + 16 * pairs)


def _learning(batch: MicroBatch, tokens: int, body: int, head: int, adapters: int) -> float:
    if adapters:
        return tokens * (6 * body + 6 * adapters) + len(batch.position) * 6 * head
    return tokens * 8 * body + len(batch.position) * 8 * head


def matrix_rate(policy: scorl.Policy, tokens: int = 2048) -> float:
    """Operations a second of the model's widest layer on as many tokens as a micro-batch has."""
    config = policy.decoder.config.get_text_config()
    x, w = torch.randn(tokens, config.hidden_size), torch.randn(config.intermediate_size, config.hidden_size)
    x, w = x.to(policy.device, policy.dtype), w.to(policy.device, policy.dtype)
    best, count = float("inf"), max(1, int(2e9) // (2 * tokens * w.numel()))
    for _ in range(5):
        began = clock()
        for _ in range(count):
            y = torch.nn.functional.linear(x, w)
        float(y[0, 0])
        best = min(best, (clock() - began) / count)
    return 2 * tokens * w.numel() / best
