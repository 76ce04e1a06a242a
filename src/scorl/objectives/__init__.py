"""Objectives: small pure objects that turn a group of judged trajectories into training examples.

A new method is a new file here and a line in `OBJECTIVES`; sampling, loss and loop know no method.
"""

from scorl.objectives.baseline import leave_one_out
from scorl.objectives.imitation import PairSFT, RejectionSampling, Star
from scorl.objectives.objective import Objective
from scorl.objectives.pag import PAG
from scorl.objectives.reinforce import Reinforce
from scorl.objectives.s2r import OutcomeLevel, ProcessLevel
from scorl.objectives.score import StageOne, StageTwo, shaped_rewards
from scorl.objectives.supervised import Supervised
from scorl.objectives.ufo import UFO

__all__ = [
    "OBJECTIVES",
    "PAG",
    "UFO",
    "Objective",
    "OutcomeLevel",
    "PairSFT",
    "ProcessLevel",
    "Reinforce",
    "RejectionSampling",
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
    "pag": PAG,
    "process_level": ProcessLevel,
    "outcome_level": OutcomeLevel,
    "rejection_sampling": RejectionSampling,
    "ufo": UFO,
}
"""The names that recipes, steps.jsonl and the documents use."""
