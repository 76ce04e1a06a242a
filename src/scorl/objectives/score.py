"""SCoRe, stage I (Eq. 3) and stage II (Eq. 4) of arXiv 2409.12917.

Rewards are instantaneous (gamma = 0): an attempt's tokens are credited with that attempt's shaped reward alone.
If one number multiplied both attempts, the bonus would pay for wrong first attempts; `gamma: 1` shows it.
Dividing advantages by their standard deviation would cancel alpha, so it is not offered.

Beyond two attempts (camera-ready, A.1): stage I rewards the last attempt and holds all earlier ones; each bonus
of stage II is relative to the attempt just before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from math import inf, isfinite
from typing import Annotated, Literal, Self

from annotated_types import Ge, Gt, Interval

from scorl.objectives.baseline import advantages, best_of, credit_attempts, returns, reward_contexts
from scorl.objectives.objective import Objective, StageShape, needs_second_attempt, pass_k_problems
from scorl.trajectory import Credit, Group, TrainingExample, Trajectory

__all__ = ["StageOne", "StageTwo", "shaped_rewards"]


@dataclass(frozen=True)
class StageOne(Objective):
    """Teach the last attempt while a strict KL keeps the earlier ones near the reference (Eq. 3)."""

    beta_1: Annotated[float, Ge(0)] = 0.01
    """KL coefficient of every attempt (left out of the printed equation, stated in its text)."""
    beta_2: Annotated[float, Ge(0)] = 0.1
    """Additional KL coefficient of the attempts before the last: 0.1 on MATH, 0.25 on MBPP."""
    target_kl: Annotated[float, Gt(0)] | None = None
    """Nats at which beta_2 holds the first attempt's KL, rising and falling step by step; null: beta_2 stays (the
    paper allows an adaptive one and gives no formula; this is the proportional controller of arXiv 1909.08593)."""

    def __call__(self, group: Group) -> list[TrainingExample]:
        """The last attempt gets its reward; the earlier ones get no reward at all, only the KL."""
        last = [[0.0] * (len(t.attempts) - 1) + [t.attempts[-1].reward] for t in group]
        held = Credit(0.0, self.beta_1 + self.beta_2)
        return [
            TrainingExample.of_attempts(trajectory, (held,) * (len(row) - 1) + (Credit(row[-1], self.beta_1),))
            for trajectory, row in zip(group, advantages(group, last), strict=True)
        ]

    def problems_with(self, stage: StageShape) -> Iterator[tuple[str, str]]:
        """There is a second attempt, and a target has a coefficient to move and a first attempt that is trained."""
        yield from needs_second_attempt(stage)
        if self.target_kl is None:
            return
        if not self.beta_2:
            yield "beta_2", "multiplies it from step to step with target_kl, so above 0, not 0"
        if stage.first != "each":
            yield "first", f"trains first attempts with target_kl, whose KL it holds, so each, not {stage.first}"
        if stage.offline == 1:
            yield "offline", "trains first attempts with target_kl, whose KL it holds, so below 1, not 1"

    @property
    def adaptive(self) -> Mapping[str, float]:
        """beta_2 where it has a KL to hold."""
        return {} if self.target_kl is None else {"beta_2": self.beta_2}

    def after(self, kl: Mapping[int, float]) -> Self:
        """beta_2 follows the first attempt's KL, by at most 20% a step; it stays where that is none or not finite."""
        if self.target_kl is None or not isfinite(kl.get(0, inf)):
            return self
        error = max(-1.0, min(1.0, kl[0] / self.target_kl - 1))
        return replace(self, beta_2=self.beta_2 * (1 + 0.2 * error))


@dataclass(frozen=True)
class StageTwo(Objective):
    """Reward every attempt, with the bonus alpha (r_t - r_{t-1}) on each after the first (Eq. 4)."""

    beta_1: Annotated[float, Ge(0)] = 0.01
    """KL coefficient of every attempt."""
    alpha: Annotated[float, Ge(0)] = 10.0
    """Weight of the bonus for progress from the attempt just before."""
    baseline: Literal["shaped", "given_before", "reward_context"] = "shaped"
    """`shaped`: leave-one-out over shaped rewards. `given_before`: over them without their part -alpha r_{t-1}, which
    attempt t cannot change any more; the same gradient on average, with less variance (open in the paper).
    `reward_context`: that, among the samples with the same earlier rewards (S2R, arXiv 2502.12853)."""
    gamma: Annotated[float, Interval(ge=0, le=1)] = 0.0
    """Discount of later rewards in an attempt's return. Anything above 0 pays for wrong first attempts: with 1 the
    first is credited (1 - alpha) r_1 (the paper: 0)."""
    pass_k: Annotated[int, Ge(1)] = 1
    """Above 1, first attempts are paid for pass@k: for what each adds to the best of k, which keeps them diverse."""

    def __call__(self, group: Group) -> list[TrainingExample]:
        """Advantage of attempt t: its shaped return less the mean over what it is compared with (`advantages`)."""
        contexts = None
        if self.baseline == "reward_context":
            contexts = [reward_contexts(a.reward for a in t.attempts) for t in group]
        credited = [self._credited(t) for t in group]
        first = partial(best_of, k=self.pass_k)
        return credit_attempts(group, advantages(group, credited, first=first, contexts=contexts), self.beta_1)

    def problems_with(self, stage: StageShape) -> Iterator[tuple[str, str]]:
        """There is a second attempt, and pass@k has k samples."""
        yield from needs_second_attempt(stage)
        yield from pass_k_problems(self.pass_k, self.gamma, stage)

    def _credited(self, trajectory: Trajectory) -> list[float]:
        credited = returns(shaped_rewards(trajectory, self.alpha), self.gamma)
        if self.baseline != "shaped":
            for turn, before in enumerate(trajectory.attempts[:-1], 1):
                credited[turn] += self.alpha * before.reward
        return credited


def shaped_rewards(trajectory: Trajectory, alpha: float) -> list[float]:
    """The shaped reward of each attempt: r_1, then (1 + alpha) r_t - alpha r_{t-1}."""
    rewards = [attempt.reward for attempt in trajectory.attempts]
    bonus = [alpha * (after - before) for before, after in pairwise(rewards)]
    return [rewards[0]] + [reward + extra for reward, extra in zip(rewards[1:], bonus, strict=True)]
