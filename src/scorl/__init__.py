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
    from scorl.engines import ScriptedEngine
    from scorl.engines.torch import TorchEngine
    from scorl.engines.vllm.engine import VllmEngine
    from scorl.evaluation import Evaluation, evaluate
    from scorl.learner import Learner
    from scorl.metrics import measure
    from scorl.model.chat import Chat
    from scorl.model.policy import Policy
    from scorl.objectives import OBJECTIVES, PairSFT, Reinforce, StageOne, StageTwo, Star, Supervised
    from scorl.settings import EvaluationSettings, LearnerSettings, LoraSettings, Sampling, VllmSettings
    from scorl.training.loop import train
    from scorl.training.stage import Stage
    from scorl.training.step import Step
    from scorl.trajectory import Credit, Problem, Response, TrainingExample, Trajectory, Verdict

_HOMES = {
    "scorl.model.chat": ("Chat",),
    "scorl.engines.scripted": ("ScriptedEngine",),
    "scorl.engines.torch": ("TorchEngine",),
    "scorl.engines.vllm.engine": ("VllmEngine",),
    "scorl.evaluation": ("Evaluation", "evaluate"),
    "scorl.learner": ("Learner",),
    "scorl.metrics": ("measure",),
    "scorl.objectives": ("OBJECTIVES", "PairSFT", "Reinforce", "StageOne", "StageTwo", "Star", "Supervised"),
    "scorl.model.policy": ("Policy",),
    "scorl.settings": ("EvaluationSettings", "LearnerSettings", "LoraSettings", "Sampling", "VllmSettings"),
    "scorl.training.stage": ("Stage",),
    "scorl.training.step": ("Step",),
    "scorl.training.loop": ("train",),
    "scorl.trajectory": ("Credit", "Problem", "Response", "TrainingExample", "Trajectory", "Verdict"),
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
