"""Statistics of a step's micro-batches: sums that end as the mean KL, the loss, and what the guards look at."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from scorl.distributed.ranks import Ranks
from scorl.learner.batch import MicroBatch, MicroBatches

__all__ = ["Agreement", "Pull", "StepStatistics", "StepSums"]


@dataclass(frozen=True)
class Agreement:
    """How the learner's log-probabilities agree with the sampler's: sums over the sampled tokens.

    With d the learner's less the sampler's, and x the mean of both.
    """

    tokens: float = 0.0
    gap: float = 0.0
    """Sum of |d|."""
    d: float = 0.0
    x: float = 0.0
    xx: float = 0.0
    dx: float = 0.0
    dd: float = 0.0
    ddx: float = 0.0
    ddxx: float = 0.0

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


@dataclass(frozen=True)
class Pull:
    """What the credits pull at, reckoned without the loss and without the model's backward pass."""

    at_tokens: float = 0.0
    """Sum over predictions of |credit| (1 - p): the size of the gradient at the logits, p being the probability of what
    was predicted. Credits of trajectories that share a prediction are added first, since they may cancel."""
    along_loss: float = 0.0
    """How much the loss falls for each nat that log-probabilities rise in proportion to their credits."""


@dataclass(frozen=True)
class StepStatistics:
    """What a step was like."""

    loss: float
    agreement: Agreement
    pull: Pull
    kl: dict[int, float]
    """By place in the conversation, the mean over responses."""
    odd: Sequence[str] = ()
    """Of which responses a log-probability is no finite number, and whose."""

    @property
    def gap(self) -> float | None:
        """Mean difference to the sampler's log-probabilities; None: nothing was sampled."""
        return self.agreement.mean_gap


@dataclass
class StepSums:
    """Sums over chunks of micro-batches, by name; they stay on the device until `read`."""

    _sums: dict[str, Tensor] = field(default_factory=dict)
    _logprobs: list[Tensor] = field(default_factory=list)
    """Of the tokens of each chunk; looked at where a sum is not finite."""

    def add(self, batch: MicroBatch, share: Tensor, logprobs: Tensor, kl: Tensor | None, places: Sequence[int]) -> None:
        """Add a chunk of a micro-batch: its share of the loss, which has been differentiated, its tokens'
        log-probabilities and KL. `places` are those of its responses, which the host knows without asking the device.
        """
        self._logprobs.append(logprobs.detach())
        self._add(loss=share.detach().double())
        self._add(**_agreement(batch, logprobs.detach()))
        self._add(**_pull(batch, logprobs))
        if kl is None:
            return
        of_token = batch.place[batch.response]
        for place in places:
            self._add(**{f"kl {place}": torch.where(of_token == place, kl.detach(), 0.0).double().sum()})
            self._add(**{f"responses {place}": (batch.place == place).sum()})

    def _add(self, **terms: Tensor) -> None:
        for name, term in terms.items():
            self._sums[name] = self._sums[name] + term if name in self._sums else term.double()

    def read(self) -> dict[str, float]:
        """The sums as numbers."""
        if not self._sums:
            return {}
        return dict(zip(self._sums, torch.stack(list(self._sums.values())).tolist(), strict=True))

    def gather(self, ranks: Ranks, batches: MicroBatches) -> StepStatistics:
        """The statistics of the step over all ranks, of which this one has added these micro-batches in order."""
        statistics = self.total(ranks.all_gather(self.read(), "the statistics of a step"))
        if all(map(math.isfinite, (statistics.loss, statistics.agreement.gap, statistics.pull.at_tokens))):
            return statistics
        odd = ranks.all_concat(self._find_odd(batches), "whose log-probabilities are not finite")
        return replace(statistics, odd=odd)

    def _find_odd(self, batches: MicroBatches) -> list[str]:
        """The responses with a log-probability that is no finite number, and whose it is."""
        computed = torch.cat(self._logprobs).tolist() if self._logprobs else []
        odd, first = [], 0
        for name, response in batches.responses:
            policys = computed[first : first + len(response.ids)]
            first += len(response.ids)
            for whose, values in (("sampler", response.logprobs), ("policy", policys)):
                if wrong := next((value for value in values if not math.isfinite(value)), None):
                    odd.append(f"the {whose}'s is {wrong} in {name}")
        return odd

    @staticmethod
    def total(parts: Sequence[dict[str, float]]) -> StepStatistics:
        """What was read on all ranks, as the statistics of the step."""
        sums: Counter[str] = Counter()
        for part in parts:
            for name, value in part.items():
                sums[name] += value  # type: ignore[assignment]
        places = sorted(int(name.removeprefix("kl ")) for name in sums if name.startswith("kl "))
        return StepStatistics(
            loss=sums["loss"],
            agreement=Agreement(**{name: sums[name] for name in Agreement.__dataclass_fields__}),
            pull=Pull(**{name: sums[name] for name in Pull.__dataclass_fields__}),
            kl={place: sums[f"kl {place}"] / sums[f"responses {place}"] for place in places},
        )


def _agreement(batch: MicroBatch, logprobs: Tensor) -> dict[str, Tensor]:
    """The sums of `Agreement` by name."""
    counts = (batch.imitation == 0)[batch.response]
    difference = torch.where(counts, logprobs - batch.sampled, 0.0)
    d = difference.double()
    x = torch.where(counts, (logprobs.double() + batch.sampled.double()) / 2, 0.0)
    dx = d * x
    terms = {"d": d, "x": x, "xx": x * x, "dx": dx, "dd": d * d, "ddx": d * dx, "ddxx": dx * dx}
    return {
        "tokens": counts.sum(),
        "gap": difference.abs().double().sum(),
        **{name: term.sum() for name, term in terms.items()},
    }


def _pull(batch: MicroBatch, logprobs: Tensor) -> dict[str, Tensor]:
    """The sums of `Pull` by name."""
    credit = (batch.advantage + batch.imitation)[batch.response]
    values = logprobs.detach()
    total = values.new_zeros(len(batch.target)).index_add_(0, batch.prediction, credit)
    logprob = values.new_zeros(len(batch.target)).scatter_(0, batch.prediction, values)
    along = credit * logprobs.grad if logprobs.grad is not None else torch.zeros_like(credit)
    return {"at_tokens": (total.abs() * -torch.expm1(logprob)).sum(), "along_loss": -along.sum()}
