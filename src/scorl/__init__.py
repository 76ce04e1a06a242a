"""scorl trains a language model to correct its own answers (SCoRe, arXiv 2409.12917).

policy = scorl.Policy("scorl:countdown-base")
task = scorl.tasks.load("countdown")
stages = [scorl.Stage(scorl.StageOne(), steps=80), scorl.Stage(scorl.StageTwo(), steps=160)]
for step in scorl.train(policy, task, stages):
    print(step.index, scorl.measure(step.groups)["delta"])
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from scorl.version import __version__

if TYPE_CHECKING:
    from scorl import tasks
    from scorl.chat import Chat
    from scorl.engines import ScriptedEngine, TorchEngine, VllmEngine
    from scorl.evaluation import Evaluation, evaluate
    from scorl.learner import Learner
    from scorl.metrics import measure
    from scorl.objectives import OBJECTIVES, PairSFT, Reinforce, StageOne, StageTwo, Star, Supervised
    from scorl.policy import Policy
    from scorl.settings import LearnerSettings, LoraSettings, Sampling, VllmSettings
    from scorl.stage import Stage
    from scorl.steps import Step
    from scorl.training import train
    from scorl.trajectory import Attempt, Credit, Lesson, Problem, Trajectory, Verdict

_HOMES = {
    "scorl.chat": ("Chat",),
    "scorl.engines": ("ScriptedEngine", "TorchEngine", "VllmEngine"),
    "scorl.evaluation": ("Evaluation", "evaluate"),
    "scorl.learner": ("Learner",),
    "scorl.metrics": ("measure",),
    "scorl.objectives": ("OBJECTIVES", "PairSFT", "Reinforce", "StageOne", "StageTwo", "Star", "Supervised"),
    "scorl.policy": ("Policy",),
    "scorl.settings": ("LearnerSettings", "LoraSettings", "Sampling", "VllmSettings"),
    "scorl.stage": ("Stage",),
    "scorl.steps": ("Step",),
    "scorl.training": ("train",),
    "scorl.trajectory": ("Attempt", "Credit", "Lesson", "Problem", "Trajectory", "Verdict"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = ["__version__", "tasks", *sorted(_HOME_OF)]


def __getattr__(name: str) -> Any:
    # Imported when first asked for: the nouns and the science must not wait for torch.
    if name == "tasks":
        return import_module("scorl.tasks")
    if name not in _HOME_OF:
        raise AttributeError(f"module 'scorl' has no attribute '{name}'")
    return getattr(import_module(_HOME_OF[name]), name)
