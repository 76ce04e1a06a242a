"""Statistics of a step's micro-batches: sums that end as the mean KL, the loss, and what the guards look at."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import torch
from torch import Tensor

from scorl.learner.batch import MicroBatch

__all__ = ["Agreement", "Pull", "StepStatistics"]


@dataclass
class Agreement:
    """How the learner's log-probabilities agree with the sampler's: sums over the sampled tokens.

    With d the learner's less the sampler's, and x the mean of both.
    """

    tokens: int = 0
    gap: float = 0.0
    """Sum of |d|."""
    d: float = 0.0
    x: float = 0.0
    xx: float = 0.0
    dx: float = 0.0
    dd: float = 0.0
    ddx: float = 0.0
    ddxx: float = 0.0

    def add(self, logprobs: Tensor, sampled: Tensor) -> None:
        """Add tokens, by what either says of them."""
        d = logprobs - sampled
        self.tokens += len(d)
        self.gap += float(d.abs().double().sum())
        d, x = d.double(), (logprobs.double() + sampled.double()) / 2
        dx = d * x
        terms = (d, x, x * x, dx, d * d, d * dx, dx * dx)
        for name, value in zip(_MOMENTS, torch.stack([term.sum() for term in terms]), strict=True):
            setattr(self, name, getattr(self, name) + float(value))

    @property
    def mean_gap(self) -> float | None:
        """Mean difference to the sampler's log-probabilities; None: nothing was sampled."""
        return self.gap / self.tokens if self.tokens else None

    @property
    def tilt(self) -> tuple[float, float]:
        """The slope of d over x, and how many standard errors it is from 0.

        Rounding is as often up as down, wherever a token lies, so its slope is near 0; another temperature stretches
        all log-probabilities by one factor. The slope is of the line through the means; the error (White 1980) lets
        rounding grow where a token is unlikely, and no single token can bring it above 1. The mean of both stands on
        the horizontal axis, since with one of them alone its rounding would tilt the line (Bland and Altman 1986).
        """
        if not self.tokens:
            return 0.0, 0.0
        mean = self.x / self.tokens
        spread = self.xx - mean * self.x
        product = self.dx - mean * self.d
        square = self.ddxx - 2 * mean * self.ddx + mean * mean * self.dd
        if not (spread > 0 and square > 0):
            return 0.0, 0.0
        return product / spread, product / math.sqrt(square)


_MOMENTS = ("d", "x", "xx", "dx", "dd", "ddx", "ddxx")


@dataclass
class Pull:
    """What the credits pull at, reckoned without the loss and without the model's backward pass."""

    at_tokens: float = 0.0
    """Sum over predictions of |credit| (1 - p): the size of the gradient at the logits, p being the probability of what
    was predicted. Credits of trajectories that share a prediction are added first, since they may cancel."""
    along_loss: float = 0.0
    """How much the loss falls for each nat that log-probabilities rise in proportion to their credits."""

    def add(self, batch: MicroBatch, logprobs: Tensor) -> None:
        """Add a chunk, whose loss has been differentiated."""
        credit = (batch.advantage + batch.imitation)[batch.response]
        values = logprobs.detach()
        total = values.new_zeros(len(batch.target)).index_add_(0, batch.prediction, credit)
        logprob = values.new_zeros(len(batch.target)).scatter_(0, batch.prediction, values)
        self.at_tokens += float((total.abs() * -torch.expm1(logprob)).sum())
        if logprobs.grad is not None:
            self.along_loss -= float((credit * logprobs.grad).sum())


@dataclass
class StepStatistics:
    """Sums over micro-batches, later over ranks."""

    loss: float = 0.0
    kl_sums: dict[int, float] = field(default_factory=dict)
    responses: dict[int, int] = field(default_factory=dict)
    agreement: Agreement = field(default_factory=Agreement)
    pull: Pull = field(default_factory=Pull)

    def add(self, batch: MicroBatch, share: Tensor, logprobs: Tensor, kl: Tensor | None) -> None:
        """Add a chunk of a micro-batch: its share of the loss, its tokens' log-probabilities and KL."""
        self.loss += float(share.detach())
        sampled = (batch.imitation == 0)[batch.response]
        self.agreement.add(logprobs.detach()[sampled], batch.sampled[sampled])
        self.pull.add(batch, logprobs)
        if kl is None:
            return
        places = batch.place[batch.response]
        for place in sorted(set(batch.place.tolist())):
            self.kl_sums[place] = self.kl_sums.get(place, 0.0) + float(kl.detach()[places == place].double().sum())
            self.responses[place] = self.responses.get(place, 0) + int((batch.place == place).sum())

    @classmethod
    def sum(cls, parts: Sequence[StepStatistics]) -> StepStatistics:
        """The sums over ranks."""
        total = cls()
        for part in parts:
            total.loss += part.loss
            _add(total.agreement, part.agreement)
            _add(total.pull, part.pull)
            for place in part.kl_sums:
                total.kl_sums[place] = total.kl_sums.get(place, 0.0) + part.kl_sums[place]
                total.responses[place] = total.responses.get(place, 0) + part.responses[place]
        return total

    @property
    def kl(self) -> dict[int, float]:
        """By place in the conversation, the mean over responses."""
        return {place: kl_sum / self.responses[place] for place, kl_sum in sorted(self.kl_sums.items())}

    @property
    def gap(self) -> float | None:
        """Mean difference to the sampler's log-probabilities; None: nothing was sampled."""
        return self.agreement.mean_gap


def _add(total: Agreement | Pull, part: Agreement | Pull) -> None:
    for each in fields(total):
        setattr(total, each.name, getattr(total, each.name) + getattr(part, each.name))
