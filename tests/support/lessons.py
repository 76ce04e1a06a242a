"""Something to learn from, and the gradient that the learner makes of it."""

from __future__ import annotations

import torch

from scorl.engines.torch import TorchEngine
from scorl.learner import Learner
from scorl.objectives import StageTwo
from scorl.rollout import Draws, rollout
from scorl.seeds import derive
from scorl.settings import Sampling
from scorl.trajectory import Credit, TrainingExample
from support.worlds import letters

__all__ = ["gradient", "make_examples"]


def make_examples(policy):
    """Lessons of different lengths with rewards, so that nothing cancels."""
    task = letters()
    draws = Draws(lambda problem, sample, place: derive(problem.id, sample, place), 4, Sampling(max_tokens=6))
    groups = rollout(TorchEngine(policy), task, task.split("train").draw(5, 0, 0), task.turns(2), draws)
    rows = [example for group in groups for example in StageTwo()(group)]
    return [
        TrainingExample(row.trajectory, tuple(Credit(0.3 * (i % 5) - 0.5, 0.2, 0.1 * (i % 2)) for _ in row.credits))
        for i, row in enumerate(rows)
    ]


def gradient(policy, examples, settings, drift=0.05):
    """The gradient of one step against a reference that lies a little apart."""
    learner = Learner(policy, settings, total=1)
    torch.manual_seed(0)
    for parameter in learner.reference.head.parameters():
        parameter.data += drift * torch.randn_like(parameter)
    statistics = learner.accumulate_gradients(examples)
    found = {name: p.grad.clone() for name, p in policy.parameters.items()}
    learner.optimizer.zero_grad(set_to_none=True)
    return found, statistics
