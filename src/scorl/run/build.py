"""From a recipe to what it names: the task read, the model loaded, the engine built."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import transformers

from scorl.distributed.ranks import ALONE, Ranks
from scorl.engines import ScriptedEngine, TorchEngine, VllmEngine
from scorl.engines.engine import Engine
from scorl.engines.vllm.server import check_installed
from scorl.errors import UserError
from scorl.model.policy import Policy
from scorl.objectives import Supervised
from scorl.recipe.sections import EngineSettings, Recipe
from scorl.run.run import Plan
from scorl.settings import Sampling, VllmSettings
from scorl.tasks.task import Task
from scorl.version import __version__

__all__ = ["ENGINES", "planned", "versions"]


def _scripted(policy: Policy, settings: EngineSettings) -> Engine:
    return ScriptedEngine.load_answers(policy.chat, Path(settings.answers or ""))


def _torch(policy: Policy, settings: EngineSettings) -> Engine:
    return TorchEngine(policy, batch_size=settings.batch_size)


def _vllm(policy: Policy, settings: EngineSettings) -> Engine:
    return VllmEngine(policy, settings.vllm or VllmSettings(), settings.batch_size)


ENGINES: dict[str, Callable[[Policy, EngineSettings], Engine]] = {
    "scripted": _scripted,
    "torch": _torch,
    "vllm": _vllm,
}
"""The engines by the names that recipes use."""


def planned(recipe: Recipe, ranks: Ranks = ALONE) -> Plan:
    """Build all that a recipe names; the task comes first, so that its faults show before a model is loaded.

    Raises:
        UserError: the task, one of its splits, the model, vLLM or the engine's answers cannot be had.
    """
    task = recipe.turns.of(recipe.task.build())
    _check_problems(recipe, task)
    if recipe.engine.name == "vllm":
        check_installed((recipe.engine.vllm or VllmSettings()).python)
    settings = recipe.model
    policy = Policy(
        settings.path,
        dtype=settings.dtype,
        device=settings.device,
        lora=settings.lora,
        chat_template=settings.chat_template,
        placed=ranks.size == 1 or recipe.launcher.parallel == "ddp",
    )
    return Plan(
        model=settings.path,
        policy=policy,
        engine=ENGINES[recipe.engine.name](policy, recipe.engine),
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
        if isinstance(stage.objective, Supervised) and any(p.solution is None for p in problems):
            raise UserError(f"task '{task.name}' has no reference solutions, which `supervised` learns from")


def versions() -> Mapping[str, str]:
    """The versions that decide what a seed gives."""
    return {
        "scorl": __version__,
        "torch": str(torch.__version__),
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }
