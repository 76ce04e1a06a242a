"""Combinations that cannot be meant: every key is right, and yet the run would be wrong or pointless."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator

from scorl.engines import ENGINES
from scorl.recipe.sections import Recipe
from scorl.tasks.turns import TURNS
from scorl.training.stage import Stage

__all__ = ["contradictions"]


def contradictions(recipe: Recipe) -> list[str]:
    """What cannot be meant, a line each, beginning with the key's path."""
    stages = [line for i, stage in enumerate(recipe.stages) for line in _stage(f"stages.{i}", stage)]
    return [*stages, *_turns(recipe), *_sampling(recipe), *_learning(recipe), *_machine(recipe), *_launching(recipe)]


def _stage(path: str, stage: Stage) -> Iterator[str]:
    if abs(stage.offline * stage.samples - round(stage.offline * stage.samples)) > 1e-9:
        yield f"{path}.offline: {stage.offline:g} of {stage.samples} samples is no whole number of them"
    if (stage.offline or stage.branches > 1) and stage.attempts < 2:
        yield f"{path}.attempts: offline first attempts and branches need a second attempt, not 1"
    if stage.first != "each" and stage.branches < 2:
        yield f"{path}.branches: first: {stage.first} goes on from one attempt, at least twice, not {stage.branches}"
    if stage.first != "each" and stage.offline:
        yield f"{path}.offline: first: {stage.first} chooses among the policy's own attempts; leave one of them out"
    for key, wrong in stage.objective.problems_with(stage):
        yield f"{path}.{key}: {stage.objective_name} {wrong}"


def _turns(recipe: Recipe) -> Iterator[str]:
    asked = {turn.role for turn in recipe.turns("", 2)}
    for stage in recipe.stages:
        for role in sorted(stage.objective.roles - asked):
            right = next(name for name, turns in TURNS.items() if role in {turn.role for turn in turns()("", 2)})
            yield f"turns.name: {stage.objective_name} learns from every {role}, and none is asked for; use {right}"


def _sampling(recipe: Recipe) -> Iterator[str]:
    engine = recipe.engine
    if ENGINES[engine.name].is_endpoint:
        yield (
            f"engine.name: {engine.name} asks a model whose weights are elsewhere, so there is nothing to train; "
            "measure it with scorl evaluate openai:MODEL@URL"
        )
    if engine.temperature < 0.001:
        yield "engine.temperature: greedy samples of a problem are all alike and teach nothing; 1.0 is usual"
    limits = () if isinstance(engine.max_tokens, int) else engine.max_tokens
    if recipe.stages and len(limits) > recipe.attempts:
        yield (
            f"engine.max_tokens: {len(limits)} limits, and {recipe.attempts} attempts are made "
            f"(stages.N.attempts); {list(limits[: recipe.attempts])} would be right"
        )
    if recipe.evaluation.split in (recipe.task.split, "all"):
        yield (
            f"evaluation.split: '{recipe.evaluation.split}' holds what task.split trains on; "
            "evaluating on it would measure memory, not skill"
        )


def _learning(recipe: Recipe) -> Iterator[str]:
    learner = recipe.learner
    if learner.weight_decay and learner.optim == "adam":
        yield "learner.weight_decay: adam does not read it; use optim: adamw"


def _machine(recipe: Recipe) -> Iterator[str]:
    if recipe.model.dtype == "float16" and not recipe.model.lora:
        yield "model.dtype: gradients of full fine-tuning vanish in float16; use bfloat16 or float32, or model.lora"
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", recipe.model.device):
        yield f"model.device: '{recipe.model.device}' is no device. Allowed: auto, cpu, cuda, cuda:N"
    if recipe.model.lora and not importlib.util.find_spec("peft"):
        yield "model.lora: adapters need peft: pip install 'scorl[lora]', or lora: null"
    if recipe.model.lora and recipe.model.frozen:
        yield "model.frozen: with model.lora nothing but the adapters is trained anyway; leave one of them out"
    if recipe.model.lora and recipe.model.lora.load_in_4bit and recipe.launcher.parallel == "fsdp2":
        yield "model.lora.load_in_4bit: weights of four bits cannot be divided; use launcher.parallel: ddp"


def _launching(recipe: Recipe) -> Iterator[str]:
    launcher = recipe.launcher
    if launcher.name != "local" and launcher.workers is None:
        yield f"launcher.workers: say how many processes {launcher.name} is to start"
    if launcher.workers not in (None, 1) and recipe.model.device.startswith("cuda:"):
        yield f"model.device: each process has its own, so auto, cpu or cuda, not {recipe.model.device}"
