"""UFO: another try only after a wrong answer (arXiv 2507.14295).

Offered for comparison. Its "try again" is only said of wrong answers, so inference needs the verifier too; every
other method here does without. All attempts are sampled all the same, and those after a right one train nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Le

from scorl.objectives.baseline import advantages, credit_attempts
from scorl.objectives.objective import Objective, StageShape, needs_second_attempt
from scorl.trajectory import Group, Response, TrainingExample, Trajectory

__all__ = ["UFO"]


@dataclass(frozen=True)
class UFO(Objective):
    """Pay an episode for its last answer, less with every turn, and charge it for attempts without a new answer."""

    beta_1: Annotated[float, Ge(0)] = 0.01
    """KL coefficient of every attempt."""
    decay: Annotated[float, Gt(0), Le(1)] = 0.5
    """Factor of the reward for every turn before the right answer (the authors' code: one half)."""
    repetition_penalty: Annotated[float, Ge(0)] = 0.5
    """Charged times the share of the attempts that give no new answer (the authors' code: one half)."""

    def __call__(self, group: Group) -> list[TrainingExample]:
        """Advantage of each attempt of an episode: its return less the mean of the others' that came as far."""
        episodes = [list(_episode(t)) for t in group]
        credited = [[self._return(attempts)] * len(attempts) for attempts in episodes]
        return credit_attempts(group, advantages(group, credited), self.beta_1)

    def _return(self, attempts: Sequence[Response]) -> float:
        paid = self.decay ** (len(attempts) - 1) * attempts[-1].reward
        answers = {attempt.verdict.answer for attempt in attempts if attempt.verdict and attempt.verdict.answer}
        return paid - self.repetition_penalty * (1 - len(answers) / len(attempts))

    def problems_with(self, stage: StageShape) -> Iterator[tuple[str, str]]:
        """There is a second attempt."""
        yield from needs_second_attempt(stage)


def _episode(trajectory: Trajectory) -> Iterator[Response]:
    """The attempts up to the first right one."""
    for attempt in trajectory.attempts:
        yield attempt
        if attempt.right:
            return
