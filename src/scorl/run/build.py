"""From a recipe to what it names: the task read, the model loaded, the engine built."""

from __future__ import annotations

import platform
from collections.abc import Mapping

import torch
import transformers

from scorl.distributed.ranks import ALONE, Ranks
from scorl.engines import ENGINES
from scorl.errors import UserError
from scorl.model.policy import Policy
from scorl.recipe.sections import Recipe
from scorl.run.run import Plan
from scorl.settings import Sampling
from scorl.tasks.task import Task
from scorl.version import __version__

__all__ = ["planned", "versions"]


def planned(recipe: Recipe, ranks: Ranks = ALONE) -> Plan:
    """Build all that a recipe names; the task comes first, so that its faults show before a model is loaded.

    Raises:
        UserError: the task, one of its splits, the model, vLLM or the engine's answers cannot be had.
    """
    task = recipe.build_task()
    _check_problems(recipe, task)
    engine = ENGINES[recipe.engine.name]
    engine.check(recipe.engine.settings)
    policy = Policy.of(recipe.model, placed=ranks.size == 1 or recipe.launcher.parallel == "ddp")
    return Plan(
        model=recipe.model.path,
        policy=policy,
        engine=engine.build(recipe.engine.settings, recipe.model, policy),
        task=task,
        stages=recipe.stages,
        recipe=recipe.dump(versions()),
        seed=recipe.seed,
        split=recipe.task.split,
        sampling=Sampling(recipe.engine.temperature, recipe.engine.max_tokens),
        learner=recipe.learner,
        evaluations=recipe.evaluation,
        checkpoints=recipe.checkpoint,
        parallel=recipe.launcher.parallel,
    )


def _check_problems(recipe: Recipe, task: Task) -> None:
    """Draw what the run will draw first, so that a shortage shows before a model is loaded."""
    task.split(recipe.evaluation.split).take(recipe.evaluation.problems)
    for stage in recipe.stages:
        problems = task.split(recipe.task.split).draw(stage.problems, 0, recipe.seed)
        if stage.objective.source == "solutions" and any(p.solution is None for p in problems):
            raise UserError(f"task '{task.name}' has no reference solutions, which {stage.objective_name} learns from")


def versions() -> Mapping[str, str]:
    """The versions that decide what a seed gives."""
    return {
        "scorl": __version__,
        "torch": str(torch.__version__),
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }
