"""A tabular policy, whose expectations can be enumerated: the truth for gradients."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from scorl.learner.batch import micro_batches
from scorl.learner.loss import loss
from scorl.settings import LearnerSettings
from scorl.trajectory import TrainingExample, Trajectory
from support.plain import kl_of_rows

__all__ = ["TOKENS", "Table", "attempt_kl", "enumerate_gradient", "responses"]

TOKENS = range(3)


class Table:
    """Logits for each context (a tuple of tokens), with a frozen reference beside them."""

    def __init__(self, length: int, turns: int = 2) -> None:
        generator = torch.Generator().manual_seed(length)
        contexts = [c for n in range(turns * length) for c in itertools.product(TOKENS, repeat=n)]
        self.index = {context: i for i, context in enumerate(contexts)}
        self.logits = torch.randn(len(contexts), 3, generator=generator, dtype=torch.double).requires_grad_()
        self.reference = torch.randn(len(contexts), 3, generator=generator, dtype=torch.double)
        self.length = length

    def scores(self) -> torch.Tensor:
        return self.logits.log_softmax(-1)

    def kl(self) -> torch.Tensor:
        """KL at each context."""
        return (self.scores().exp() * (self.scores() - self.reference.log_softmax(-1))).sum(-1)

    def logp(self, context: tuple[int, ...], response: tuple[int, ...]) -> torch.Tensor:
        rows = [self.index[context + response[:j]] for j in range(len(response))]
        return self.scores()[rows, list(response)].sum()


def responses(length: int) -> list[tuple[int, ...]]:
    return list(itertools.product(TOKENS, repeat=length))


def attempt_kl(table: Table, context: tuple[int, ...]) -> torch.Tensor:
    """KL between whole attempts from a context: the sum over tokens of the expected KL, prefixes drawn from pi."""
    total = torch.zeros((), dtype=torch.double)
    for n in range(table.length):
        for prefix in responses(n):
            total = total + table.logp(context, prefix).exp() * table.kl()[table.index[context + prefix]]
    return total


def enumerate_gradient(
    table: Table,
    objective: Callable[[list[Trajectory]], list[TrainingExample]],
    drawn: Sequence[tuple[Tensor, Callable[[int], Trajectory]]],
    group_size: int,
    settings: LearnerSettings,
) -> Tensor:
    """The expectation of the loss's gradient over every group of these (log-probability, trajectory by its sample)."""
    gradient = torch.zeros_like(table.logits)
    for group in itertools.product(drawn, repeat=group_size):
        p = torch.stack([logp for logp, _ in group]).sum().exp().detach()
        examples = objective([made(i) for i, (_, made) in enumerate(group)])
        batches = micro_batches(examples, 10_000, "padded")
        if not batches:  # nothing was to be learned
            continue
        (batch,) = batches
        width = batch.layout.ids.shape[1]
        rows = [
            table.index[tuple(batch.layout.ids[place // width, 1 : place % width + 1].tolist())]
            for place in batch.position[batch.prediction].tolist()
        ]
        target = batch.target[batch.prediction]
        scores = table.scores()[rows]
        logprobs = scores.gather(1, target[:, None])[:, 0]
        kl = kl_of_rows(settings.kl, scores, table.reference.log_softmax(-1)[rows], target)
        value = loss(batch, logprobs, kl, len(examples), settings)
        gradient += p * torch.autograd.grad(value, table.logits)[0]
    return gradient
