"""Statistics of a step's micro-batches: sums that end as the mean KL, the loss, and what the guards look at."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from scorl.distributed.ranks import Ranks
from scorl.learner.agreement import Agreement, AgreementSums
from scorl.learner.batch import MicroBatch, MicroBatches
from scorl.learner.loss import importance, kl_to_go
from scorl.learner.placement import Carried, find_misplaced

__all__ = ["Pull", "StepStatistics", "StepSums"]

ROUNDING, FLOOR = 1e-3, 1e-6
"""How far a token's gradient may lie from its credit: a share of that, and next to a credit of 0."""


@dataclass(frozen=True)
class Pull:
    """What the credits pull at, reckoned without the loss and without the model's backward pass."""

    at_tokens: float = 0.0
    """Sum over predictions of |credit| (1 - p): the size of the gradient at the logits, p being the probability of what
    was predicted. Credits of trajectories that share a prediction are added first, since they may cancel."""
    along_loss: float = 0.0
    """How much the loss falls for each nat that log-probabilities rise in proportion to their credits."""
    astray: float = 0.0
    """Tokens at which the loss falls otherwise than by their credits, and by what the KL in the reward may add."""


@dataclass(frozen=True)
class StepStatistics:
    """What a step was like."""

    loss: float
    agreement: Agreement
    pull: Pull
    kl: dict[int, float]
    """By place in the conversation, the mean over responses."""
    misplaced: Sequence[str] = ()
    """What micro-batches carry that their training examples do not say."""
    odd: Sequence[str] = ()
    """Of which responses a log-probability or the KL is no finite number, and whose."""

    @property
    def gap(self) -> float | None:
        """Mean difference to the sampler's log-probabilities; None: nothing was sampled."""
        return self.agreement.mean_gap


@dataclass
class StepSums:
    """Sums over chunks of micro-batches, by name; they stay on the device until `read`."""

    trajectories: int
    """N of the loss."""
    cap: float | Literal["auto"] | None
    """Of `importance`."""
    _sums: dict[str, Tensor] = field(default_factory=dict)
    _logprobs: list[Tensor] = field(default_factory=list)
    """Of the tokens of each chunk, as the policy computes them and as the sampler did."""
    _sampled: list[Tensor] = field(default_factory=list)
    _kl: list[Tensor | None] = field(default_factory=list)
    """Of the same tokens."""
    _responses: list[tuple[int, int, float]] = field(default_factory=list)
    """Of each response in the chunks: its problem, its length, and the weight with which it is imitated."""
    _carried: list[Carried] = field(default_factory=list)

    def add(self, batch: MicroBatch, host: MicroBatch, share: Tensor, logprobs: Tensor, kl: Tensor | None) -> None:
        """Add a chunk of a micro-batch: its share of the loss, which has been differentiated, its tokens'
        log-probabilities and KL. `host` is the same chunk where the host knows it without asking the device.
        """
        self._logprobs.append(logprobs.detach())
        self._sampled.append(batch.sampled)
        self._carried.append(Carried.of(host))
        self._kl.append(None if kl is None else kl.detach())
        self._responses += zip(host.problem.tolist(), host.length.tolist(), host.imitation.tolist(), strict=True)
        self._add(loss=share.detach().double())
        self._add(**self._pull(batch, logprobs, kl))
        if kl is None:
            return
        of_token = batch.place[batch.response]
        for place in sorted(set(host.place.tolist())):
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

    def gather(self, ranks: Ranks, batches: MicroBatches, complete: bool = True) -> StepStatistics:
        """The statistics of the step over all ranks, of which this one has added these micro-batches in order, and all
        of them if it is `complete`."""
        mine = self.read(), self._agreement(), find_misplaced(self._carried, batches.responses) if complete else []
        statistics = _total(ranks.all_gather(mine, "the statistics of a step"))
        numbers = (statistics.loss, statistics.gap or 0.0, statistics.pull.at_tokens, *statistics.kl.values())
        if all(map(math.isfinite, numbers)):
            return statistics
        odd = ranks.all_concat(self._find_odd(batches), "whose log-probabilities are not finite")
        return replace(statistics, odd=odd)

    def _pull(self, batch: MicroBatch, logprobs: Tensor, kl: Tensor | None) -> dict[str, Tensor]:
        """The sums of `Pull` by name."""
        values = logprobs.detach()
        advantage, imitation = batch.advantage[batch.response], batch.imitation[batch.response]
        credit = advantage + imitation
        total = values.new_zeros(len(batch.target)).index_add_(0, batch.prediction, credit)
        logprob = values.new_zeros(len(batch.target)).scatter_(0, batch.prediction, values)
        grad = torch.zeros_like(values) if logprobs.grad is None else logprobs.grad
        weight = importance(logprobs, batch.sampled, self.cap)
        due = weight * advantage + imitation
        room = ROUNDING * due.abs() + FLOOR
        if kl is not None:
            to_go = kl_to_go(kl, batch, inclusive=True).abs() + kl.detach().abs()
            room = room + weight * batch.beta[batch.response] * to_go
        return {
            "at_tokens": (total.abs() * -torch.expm1(logprob)).sum(),
            "along_loss": -(credit * grad).sum(),
            "astray": ((self.trajectories * grad + due).abs() > room).sum(),
        }

    def _agreement(self) -> Agreement:
        """That of the responses that were sampled to be learned from, not imitated."""
        if not self._logprobs:
            return Agreement()
        both = torch.stack([torch.cat(self._logprobs), torch.cat(self._sampled)]).cpu()
        pairs: dict[int, list[Tensor]] = {}
        lengths = [length for _, length, _ in self._responses]
        for (problem, _, imitation), pair in zip(self._responses, torch.split(both, lengths, dim=1), strict=True):
            if not imitation:
                pairs.setdefault(problem, []).append(pair)
        return Agreement({problem: AgreementSums.of(torch.cat(its, dim=1)) for problem, its in pairs.items()})

    def _find_odd(self, batches: MicroBatches) -> list[str]:
        """The responses with a log-probability or a KL that is no finite number, and whose it is."""
        policys = [value for chunk in self._logprobs for value in chunk.tolist()]
        kls = [
            value
            for chunk, kl in zip(self._logprobs, self._kl, strict=True)
            for value in ([0.0] * len(chunk) if kl is None else kl.tolist())
        ]
        odd, first = [], 0
        for trajectory, place, _ in batches.responses:
            response = trajectory.responses[place]
            tokens = slice(first, first := first + len(response.ids))
            wrong = {
                "a log-probability is not finite: the sampler's": _first_odd(response.logprobs),
                "a log-probability is not finite: the policy's": _first_odd(policys[tokens]),
            }
            if wrong == dict.fromkeys(wrong):  # else it is no wonder
                wrong = {"the KL to the reference is not finite: it": _first_odd(kls[tokens])}
            odd += [f"{what} is {value} in {trajectory.name(place)}" for what, value in wrong.items() if value]
        return odd


def _first_odd(values: Sequence[float]) -> float | None:
    return next((value for value in values if not math.isfinite(value)), None)


def _total(parts: Sequence[tuple[dict[str, float], Agreement, list[str]]]) -> StepStatistics:
    """What was read on all ranks, as the statistics of the step."""
    sums: Counter[str] = Counter()
    for part, *_ in parts:
        for name, value in part.items():
            sums[name] += value  # type: ignore[assignment]
    places = sorted(int(name.removeprefix("kl ")) for name in sums if name.startswith("kl "))
    return StepStatistics(
        loss=sums["loss"],
        agreement=Agreement.total(agreement for _, agreement, _ in parts),
        pull=Pull(**{name: sums[name] for name in Pull.__dataclass_fields__}),
        kl={place: sums[f"kl {place}"] / sums[f"responses {place}"] for place in places},
        misplaced=[what for *_, misplaced in parts for what in misplaced],
    )
