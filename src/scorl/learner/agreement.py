"""How the learner's log-probabilities agree with the sampler's."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from scorl.metrics.significance import student_tail

__all__ = ["Agreement", "AgreementSums"]


class AgreementSums(NamedTuple):
    """Sums over the sampled tokens of a problem: d is the learner's log-probability less the sampler's, x their mean.

    The mean of both, since with one of them alone its rounding would tilt the line of d over x (Bland and Altman 1986).
    """

    tokens: float = 0.0
    gap: float = 0.0
    """Of |d|."""
    d: float = 0.0
    x: float = 0.0
    xx: float = 0.0
    dx: float = 0.0

    @classmethod
    def of(cls, pairs: Tensor) -> AgreementSums:
        """Those of tokens' log-probabilities, the learner's and the sampler's, [2, tokens]."""
        d, x = (pairs[0] - pairs[1]).double(), pairs.double().mean(0)
        sums = torch.stack([d.abs().sum(), d.sum(), x.sum(), x @ x, d @ x])
        return cls(len(d), *sums.tolist())

    def plus(self, other: AgreementSums, sign: int = 1) -> AgreementSums:
        """The sums over both, or with a sign of -1 without the other."""
        return AgreementSums(*(mine + sign * its for mine, its in zip(self, other, strict=True)))

    @property
    def slope(self) -> float | None:
        """That of the line of d over x through the means; None: all tokens lie at one place."""
        if self.tokens < 2:
            return None
        spread = self.xx - self.x * self.x / self.tokens
        return (self.dx - self.x * self.d / self.tokens) / spread if spread > 1e-12 * self.xx else None


@dataclass(frozen=True)
class Agreement:
    """How a step's log-probabilities agree, by problem."""

    problems: Mapping[int, AgreementSums] = field(default_factory=dict)

    @classmethod
    def total(cls, parts: Iterable[Agreement]) -> Agreement:
        """Of problems whose responses may lie in several parts."""
        problems: dict[int, AgreementSums] = {}
        for part in parts:
            for problem, sums in part.problems.items():
                problems[problem] = problems.get(problem, AgreementSums()).plus(sums)
        return cls(problems)

    @cached_property
    def _all(self) -> AgreementSums:
        return AgreementSums(*map(sum, zip(AgreementSums(), *self.problems.values(), strict=True)))

    @property
    def mean_gap(self) -> float | None:
        """Mean difference to the sampler's log-probabilities; None: nothing was sampled."""
        total = self._all
        return total.gap / total.tokens if total.tokens else None

    @property
    def tilt(self) -> tuple[float, float]:
        """The slope of d over x, and how probable one so far from 0 would be without any (two-sided p).

        Rounding is as often up as down, wherever a token lies, so its slope is near 0; another temperature stretches
        all log-probabilities by one factor. Samples of a problem draw the same tokens behind the same ones, and round
        alike; so the error is the jackknife's, which leaves out one problem at a time. Problems whose tokens are all
        certain say nothing about a slope: the degrees of freedom are of the effective number (Kish 1965) of problems,
        weighted by what each adds to the spread of x.
        """
        total = self._all
        slope = total.slope
        without = [total.plus(sums, -1).slope for sums in self.problems.values() if sums.tokens]
        others = [other for other in without if other is not None]
        degrees = math.floor(self._effective_problems) - 1
        if slope is None or len(others) < len(without) or degrees < 1:
            return slope or 0.0, 1.0
        square = sum((other - slope) ** 2 for other in others) * (len(others) - 1) / len(others)
        error = max(math.sqrt(square), 1e-12)
        return slope, student_tail(abs(slope) / error, degrees)

    @property
    def _effective_problems(self) -> float:
        """As many problems of equal weight would tell as much about a slope."""
        total = self._all
        mean = total.x / total.tokens if total.tokens else 0.0
        weights = [max(0.0, s.xx - 2 * mean * s.x + mean * mean * s.tokens) for s in self.problems.values()]
        squares = sum(weight * weight for weight in weights)
        # Of n equal weights it may come out just below n, which is to be n when it is rounded down.
        return sum(weights) ** 2 / squares + 1e-9 if squares else 0.0
