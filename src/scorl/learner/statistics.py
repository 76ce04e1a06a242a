"""Statistics of a step's micro-batches: sums that end as the mean KL, the gap to the sampler and the loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from scorl.learner.batch import MicroBatch

__all__ = ["StepStatistics"]


@dataclass
class StepStatistics:
    """Sums over micro-batches, later over ranks."""

    loss: float = 0.0
    kl_sums: dict[int, float] = field(default_factory=dict)
    responses: dict[int, int] = field(default_factory=dict)
    gap_sum: float = 0.0
    tokens: int = 0

    def add(self, batch: MicroBatch, share: Tensor, logprobs: Tensor, kl: Tensor | None) -> None:
        """Add a chunk of a micro-batch: its share of the loss, its tokens' log-probabilities and KL."""
        self.loss += float(share.detach())
        sampled = (batch.imitation == 0)[batch.response]
        self.gap_sum += float((logprobs.detach() - batch.sampled)[sampled].abs().double().sum())
        self.tokens += int(sampled.sum())
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
            total.gap_sum += part.gap_sum
            total.tokens += part.tokens
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
        return self.gap_sum / self.tokens if self.tokens else None
