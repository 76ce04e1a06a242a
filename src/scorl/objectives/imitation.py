"""Fine-tuning on collected attempts: the baselines STaR and Pair-SFT of the paper, and the start of S2R.

A stage with one of these collects first: the policy as it stands when the stage begins answers all problems that
the stage would draw, and the examples are made of that. Loss mask (open in the paper): the second attempt alone, so
that no wrong first attempt is imitated; `imitate: all` covers both.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge

from scorl.objectives.objective import Objective, Source, StageShape, needs_second_attempt
from scorl.seeds import derive
from scorl.trajectory import Credit, Group, Response, Role, TrainingExample, Trajectory

__all__ = ["PairSFT", "RejectionSampling", "Star"]

Imitate = Literal["last", "all"]

HEAVIEST = 8.0
"""The most that an example of a rare kind counts: one that outweighed its whole step would leave a clipped gradient
of itself alone."""


@dataclass(frozen=True)
class Star(Objective):
    """STaR over two turns: imitate own trajectories that went from wrong to right."""

    keep_right: bool = False
    """Also those that were right twice: the data set D+ of the paper, else D."""
    imitate: Imitate = "last"
    """Which attempts the loss covers."""
    epochs: Annotated[int, Ge(1)] = 1
    """Passes over what was collected, spread evenly over the stage's steps."""

    source: ClassVar[Source] = "collected"

    def __call__(self, group: Group) -> list[TrainingExample]:
        """A training example for each trajectory that enters the data set."""
        entering = [t for t in group if _enters(t.attempts[0], self.keep_right) and t.attempts[-1].right]
        return [_example(t, self.imitate) for t in entering if _ends_last(t)]

    def problems_with(self, stage: StageShape) -> Iterator[tuple[str, str]]:
        """There is a second attempt, unless one that is right is enough."""
        if not self.keep_right:
            yield from needs_second_attempt(stage)


@dataclass(frozen=True)
class PairSFT(Objective):
    """Pair-SFT: a wrong first attempt, then a right answer that another attempt gave to the same problem."""

    keep_right: bool = False
    """Also pairs that begin with a right attempt: the data set D+ of the paper, else D."""
    imitate: Imitate = "last"
    """Which attempts the loss covers."""
    epochs: Annotated[int, Ge(1)] = 1
    """Passes over what was collected, spread evenly over the stage's steps."""

    source: ClassVar[Source] = "collected"

    def __call__(self, group: Group) -> list[TrainingExample]:
        """One for each first attempt that enters; the right answer is drawn from all attempts of the group."""
        right = [attempt for attempt in _distinct(group) if attempt.right]
        pairs = [_paired(t, right) for t in group if right and _enters(t.attempts[0], self.keep_right)]
        return [_example(pair, self.imitate) for pair in pairs if _ends_last(pair)]

    def problems_with(self, stage: StageShape) -> Iterator[tuple[str, str]]:
        """It makes pairs of attempts."""
        if stage.attempts != 2:
            yield "attempts", f"makes pairs of attempts, so 2, not {stage.attempts}"


@dataclass(frozen=True)
class RejectionSampling(Objective):
    """Imitate own conversations in which every verification is true and the last answer right: the start of S2R
    (arXiv 2502.12853) and of self-rewarding correction (arXiv 2502.19613)."""

    imitate: Imitate = "last"
    """`last`: verifications and the last answer (S2R's loss mask). `all`: also the answers before it."""
    constructed: bool = False
    """Also conversations that are true but for their last answer, with a right one of another sample in its place: the
    constructed traces of S2R."""
    epochs: Annotated[int, Ge(1)] = 1
    """Passes over what was collected, spread evenly over the stage's steps."""

    source: ClassVar[Source] = "collected"
    roles: ClassVar[frozenset[Role]] = frozenset({"verification"})

    def __call__(self, group: Group) -> list[TrainingExample]:
        """One for each such conversation; what inference would not have come to is not imitated."""
        right = [attempt for attempt in _distinct(group) if attempt.right] if self.constructed else []
        whole = [_paired(t, right) if right and not t.final.right and _ends_last(t) else t for t in group]
        return [self._example(t) for t in whole if t.final.right and _all_true(t)]

    def _example(self, trajectory: Trajectory) -> TrainingExample:
        covered = [
            r is trajectory.final or r.role == "verification" or self.imitate == "all" for r in trajectory.reached
        ]
        unreached = [False] * (len(trajectory.responses) - len(covered))
        return TrainingExample(trajectory, tuple(Credit(imitation=float(c)) for c in (*covered, *unreached)))

    def over_batch(self, examples: Sequence[TrainingExample]) -> Sequence[TrainingExample]:
        """Those that were right at once and those that were corrected get the same weight together, so that a verifier
        does not learn how often answers are right; but no example more than `HEAVIEST`."""
        corrected = [not e.trajectory.attempts[0].right for e in examples]
        sizes = Counter(corrected)
        weights = [min(HEAVIEST, len(examples) / len(sizes) / sizes[kind]) for kind in corrected]
        return [
            replace(e, credits=tuple(replace(c, imitation=weight * c.imitation) for c in e.credits))
            for e, weight in zip(examples, weights, strict=True)
        ]


def _all_true(trajectory: Trajectory) -> bool:
    """Whether every verification that inference comes to is true."""
    return all(response.right for response in trajectory.reached if response.role == "verification")


def _enters(first: Response, keep_right: bool) -> bool:
    return keep_right or not first.right


def _ends_last(trajectory: Trajectory) -> bool:
    """Whether inference comes to the last attempt: behind a verification that says right it would train nothing."""
    return trajectory.final is trajectory.attempts[-1]


def _example(trajectory: Trajectory, imitate: Imitate) -> TrainingExample:
    earlier = Credit(imitation=float(imitate == "all"))
    return TrainingExample.of_attempts(
        trajectory, (earlier,) * (len(trajectory.attempts) - 1) + (Credit(imitation=1.0),)
    )


def _distinct(group: Group) -> Iterator[Response]:
    """All attempts, a first attempt that several branches share once."""
    for trajectory in group:
        yield from trajectory.attempts[trajectory.branch > 0 :]


def _paired(trajectory: Trajectory, right: list[Response]) -> Trajectory:
    """All responses but the last, and in its place the tokens of a right one; which, the trajectory alone decides."""
    *before, last = trajectory.responses
    rng = random.Random(derive("pair", trajectory.problem.id, trajectory.sample, trajectory.branch))
    chosen = rng.choice(right)
    answer = replace(chosen, prompt_ids=last.prompt_ids, offline=False)
    return replace(trajectory, responses=(*before, answer))
