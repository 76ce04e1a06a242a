"""What a step's micro-batches add up to, besides the gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from scorl.learner.batch import MicroBatch

__all__ = ["Tally"]


@dataclass
class Tally:
    """Sums over micro-batches."""

    loss: float = 0.0
    kl_sums: dict[int, float] = field(default_factory=dict)
    responses: dict[int, int] = field(default_factory=dict)
    gap_sum: float = 0.0
    tokens: int = 0

    def add(self, batch: MicroBatch, share: Tensor, logprobs: Tensor, kl: Tensor | None) -> None:
        """Count a piece of a micro-batch: its share of the loss, and what was scored."""
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
    def together(cls, tallies: Sequence[Tally]) -> Tally:
        """The sums over ranks."""
        whole = cls()
        for tally in tallies:
            whole.loss += tally.loss
            whole.gap_sum += tally.gap_sum
            whole.tokens += tally.tokens
            for place in tally.kl_sums:
                whole.kl_sums[place] = whole.kl_sums.get(place, 0.0) + tally.kl_sums[place]
                whole.responses[place] = whole.responses.get(place, 0) + tally.responses[place]
        return whole

    @property
    def kl(self) -> dict[int, float]:
        """By place in the conversation, the mean over responses."""
        return {place: total / self.responses[place] for place, total in sorted(self.kl_sums.items())}

    @property
    def gap(self) -> float | None:
        """Mean difference to the sampler's log-probabilities; None: nothing was sampled."""
        return self.gap_sum / self.tokens if self.tokens else None
