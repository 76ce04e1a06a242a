"""A stage: an objective, and for how long and on how much it is pursued."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Interval

from scorl.objectives import OBJECTIVES, Objective
from scorl.rollout import First
from scorl.settings import Count

__all__ = ["Stage"]


@dataclass(frozen=True)
class Stage:
    """One entry of the list that a run goes through; interleaving and further attempts are longer lists."""

    objective: Objective
    steps: Count
    """Updates of the policy (open in the paper: how 3,000 steps divide between the stages)."""
    problems: Count = 64
    """Problems per step; the paper's batch of 512 is read as 64 problems of 8 samples (open)."""
    samples: Count = 8
    """Samples per problem; the leave-one-out baseline is taken among them (open)."""
    attempts: Count = 2
    """Attempts per sample."""
    branches: Count = 1
    """Trajectories that continue from each first attempt; later attempts are then compared among these siblings."""
    first: First = "each"
    """Which first attempts later ones follow: `each`; of each problem's samples the `best` (iGRPO) or a `wrong` one
    (ScRPO), from which `branches` go on. A chosen first attempt is context, so it is not trained on."""
    offline: Annotated[float, Interval(ge=0, le=1)] = 0.0
    """Share of the samples whose first attempt the reference policy writes: context for the second attempt, and not
    trained on (the paper mixes such samples in; the share is open)."""
    name: str | None = None
    """What steps.jsonl calls the stage; the objective's name by default."""
    reset_reference: bool = False
    """Whether the reference policy becomes the policy as it stands when this stage starts (open: the base stays
    the reference; set it after a warm-up on reference solutions and for stage I(b) of three attempts)."""
    reset_optimizer: bool = False
    """Whether the optimiser forgets its moments when this stage starts (open: it keeps them)."""

    @property
    def objective_name(self) -> str:
        """The objective's name in recipes; the name of its class if it is not among them."""
        kind = type(self.objective)
        return next((name for name, known in OBJECTIVES.items() if known is kind), kind.__name__)

    @property
    def label(self) -> str:
        """`name`, or the objective's name."""
        return self.name or self.objective_name
