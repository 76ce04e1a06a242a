"""Objectives: small pure objects that turn a group of judged trajectories into training examples.

A new method is a new file here and a line in `OBJECTIVES`; sampling, loss and loop know no method.
"""

from scorl.objectives.baseline import leave_one_out
from scorl.objectives.imitation import PairSFT, Star
from scorl.objectives.objective import Objective
from scorl.objectives.reinforce import Reinforce
from scorl.objectives.score import StageOne, StageTwo, shaped_rewards
from scorl.objectives.supervised import Supervised

__all__ = [
    "OBJECTIVES",
    "Objective",
    "PairSFT",
    "Reinforce",
    "StageOne",
    "StageTwo",
    "Star",
    "Supervised",
    "leave_one_out",
    "shaped_rewards",
]

OBJECTIVES: dict[str, type[Objective]] = {
    "reinforce": Reinforce,
    "score_stage_one": StageOne,
    "score_stage_two": StageTwo,
    "star": Star,
    "pair_sft": PairSFT,
    "supervised": Supervised,
}
"""The names that recipes, steps.jsonl and the documents use."""
