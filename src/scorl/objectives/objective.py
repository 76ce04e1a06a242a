"""What an objective is; a new one is a file beside this one and a line in `OBJECTIVES`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, Protocol, Self

from scorl.trajectory import Group, Role, TrainingExample

__all__ = ["Objective", "Source", "StageShape", "VerifyingObjective", "needs_second_attempt", "pass_k_problems"]

Source = Literal["policy", "collected", "solutions"]
"""Where a stage's trajectories come from: sampled in every step; sampled once, when the stage begins; or the problems'
reference solutions, and nothing is sampled."""


class StageShape(Protocol):
    """What an objective may ask of the stage that it is pursued in."""

    @property
    def attempts(self) -> int:
        """Attempts per sample."""
        ...

    @property
    def samples(self) -> int:
        """Samples per problem."""
        ...

    @property
    def first(self) -> str:
        """Which first attempts are gone on from."""
        ...

    @property
    def offline(self) -> float:
        """Share of first attempts that another policy writes."""
        ...


class Objective(Protocol):
    """Turns a group of judged trajectories into training examples: a frozen dataclass that is its own settings.

    Only `__call__` must be written; everything else has a default that suits on-policy reinforcement learning.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]
    source: ClassVar[Source] = "policy"
    stage_defaults: ClassVar[Mapping[str, Any]] = {}
    """Settings of the stage whose defaults are others with this objective."""
    roles: ClassVar[frozenset[Role]] = frozenset()
    """Responses besides attempts that it learns from, and that the turns of its recipe have to ask for."""
    epochs: int = 1
    """Passes over what was collected; read where `source` is `collected`."""

    def __call__(self, group: Group) -> list[TrainingExample]:
        """The training examples of one problem's samples: a credit for every response."""
        ...

    def problems_with(self, stage: StageShape) -> Iterator[tuple[str, str]]:
        """What is wrong with a stage that pursues this: (the key, what the objective wants there, behind its name)."""
        return iter(())

    def over_batch(self, examples: Sequence[TrainingExample]) -> Sequence[TrainingExample]:
        """A pass over all examples of a step, on all ranks together, as normalising by role needs it.

        Returns as many examples, in the same order.
        """
        return examples

    @property
    def adaptive(self) -> Mapping[str, float]:
        """The settings that `after` moves, as they stand; noted in steps.jsonl and kept in checkpoints."""
        return {}

    def after(self, kl: Mapping[int, float]) -> Self:
        """The objective of the next step; `kl` is this step's mean KL of each response, in nats, by its place."""
        return self


class VerifyingObjective(Objective, Protocol):
    """An objective that also learns from the verifications between attempts."""

    roles: ClassVar[frozenset[Role]] = frozenset({"verification"})

    def problems_with(self, stage: StageShape) -> Iterator[tuple[str, str]]:
        """There is an answer after the verification."""
        yield from needs_second_attempt(stage)


def needs_second_attempt(stage: StageShape) -> Iterator[tuple[str, str]]:
    """What is wrong with a stage of one attempt, for `Objective.problems_with`."""
    if stage.attempts < 2:
        yield "attempts", f"needs at least 2, not {stage.attempts}"


def pass_k_problems(k: int, gamma: float, stage: StageShape) -> Iterator[tuple[str, str]]:
    """What is wrong with a stage whose first attempts are paid for pass@k, for `Objective.problems_with`."""
    if k == 1:
        return
    if k > stage.samples:
        yield "pass_k", f"needs as many samples, so at most {stage.samples}, not {k}"
    if gamma:
        yield "gamma", f"would pay first attempts for later ones too, so 0 with pass_k, not {gamma:g}"
    if stage.first != "each":
        yield "first", f"goes on from every first attempt with pass_k, so each, not {stage.first}"
    if stage.offline:
        yield "offline", f"compares the policy's own first attempts with pass_k, so 0, not {stage.offline:g}"
