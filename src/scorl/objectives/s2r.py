"""S2R (arXiv 2502.12853): solve and verify in turns, until a verification says right; rewards are +1 and -1.

Process level: each response is paid for itself and compared with those that have the same rewards before them, so
that a second attempt after a wrong first one is not compared with one after a right first one. Outcome level: every
response is paid for the answer that inference ends with; self-rewarding correction (arXiv 2502.19613) learns so too.
Both start from imitation of own conversations that are true throughout (`rejection_sampling`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge

from scorl.objectives.baseline import advantages, credit_responses, reward_contexts
from scorl.objectives.objective import VerifyingObjective
from scorl.trajectory import Group, Response, TrainingExample

__all__ = ["OutcomeLevel", "ProcessLevel"]


@dataclass(frozen=True)
class ProcessLevel(VerifyingObjective):
    """Pay every answer for being right and every verification for being true (process-level RL of S2R)."""

    beta_1: Annotated[float, Ge(0)] = 0.01
    """KL coefficient of every response."""

    def __call__(self, group: Group) -> list[TrainingExample]:
        """Advantage of a response: its reward less the mean of the others in the same reward context."""
        credited = [[_signed(response) for response in t.reached] for t in group]
        contexts = [reward_contexts(row) for row in credited]
        return credit_responses(group, advantages(group, credited, contexts=contexts), self.beta_1)


@dataclass(frozen=True)
class OutcomeLevel(VerifyingObjective):
    """Pay every response for the answer that inference ends with (outcome-level RL of S2R)."""

    beta_1: Annotated[float, Ge(0)] = 0.01
    """KL coefficient of every response."""

    def __call__(self, group: Group) -> list[TrainingExample]:
        """Advantage of a response: the last answer's reward less the mean of the others' that came as far."""
        credited = [[_signed(t.final)] * len(t.reached) for t in group]
        return credit_responses(group, advantages(group, credited), self.beta_1)


def _signed(response: Response) -> float:
    return 2 * response.reward - 1
