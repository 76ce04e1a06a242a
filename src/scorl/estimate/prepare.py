"""From a recipe to its plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from scorl.engines import vllm_is_installed
from scorl.errors import UserError
from scorl.estimate.device import DEVICES, this_machine
from scorl.estimate.measured import measure
from scorl.estimate.model import config_of
from scorl.estimate.plan import Case, memory_of, problems_of, stage_plans
from scorl.estimate.suggestions import suggestions
from scorl.estimate.table import Estimate
from scorl.estimate.workload import lengths_of
from scorl.model.context import usable_positions
from scorl.model.loading import build_hollow
from scorl.recipe import Recipe, decide

__all__ = ["prepared"]

TINY = 20_000_000
"""Parameters up to which steps are measured without being asked for."""


def prepared(
    recipe: Recipe,
    gpu: str | None = None,
    config: Path | None = None,
    prompt_tokens: int | None = None,
    response_tokens: int | None = None,
    steps: int | None = None,
    on_trace: Callable[[str], None] = lambda what: None,
) -> Estimate:
    """The plan of a recipe.

    Args:
        recipe: what is to be run.
        gpu: a name in `DEVICES`; None: the recipe's own, `launcher.gpu`, else this machine.
        config: the model's config.json, where the model is out of reach.
        prompt_tokens: of first prompts; None: of the task's.
        response_tokens: of responses, on average; None: as many as are allowed.
        steps: of each stage, to be made and measured here; None: some, for a tiny model on this machine.
        on_trace: is told what is traced next.

    Raises:
        UserError: nothing is trained, the configuration cannot be had, or steps are to be measured elsewhere than here.
    """
    if not recipe.stages:
        raise UserError("stages: nothing is trained, so there is nothing to plan")
    devices = recipe.launcher.workers or 1
    gpu = gpu or recipe.launcher.gpu
    if gpu is None and devices > 1:
        raise UserError(
            f"launcher.workers: {devices} processes want launcher.gpu or --gpu NAME: {', '.join(sorted(DEVICES))}"
        )
    if gpu and steps:
        raise UserError(f"--steps measures on this machine, not on {gpu}: leave out --gpu, or set launcher.gpu=null")
    device = DEVICES[gpu] if gpu else this_machine()
    architecture = config_of(recipe.model.path, config)
    kind = torch.device("cuda" if device.is_gpu else "cpu")
    recipe = decide(recipe, kind, bool(gpu) or vllm_is_installed(), partial(build_hollow, architecture))
    positions = usable_positions(recipe.engine.settings, architecture)
    lengths = lengths_of(recipe, prompt_tokens, response_tokens, positions)
    case = Case(recipe, device, architecture, lengths, on_trace)
    try:
        memory, stages = memory_of(case), stage_plans(case)
    except (TypeError, RuntimeError, AttributeError, NotImplementedError) as error:  # a model may be anything
        raise UserError(
            f"{recipe.model.path}: {architecture.model_type} models cannot be planned: without weights they "
            f"raise {type(error).__name__}: {error}"
        ) from error
    problems = problems_of(case, memory)
    tiny = case.learning(recipe.stages[0]).parameters <= TINY
    steps = 2 * (tiny and gpu is None) if steps is None else steps
    measured = None
    if steps and not problems:
        seconds, measured = measure(recipe, steps)
        stages = [replace(stage, **vars(here)) for stage, here in zip(stages, seconds, strict=True)]
    return Estimate(
        case, memory, tuple(stages), tuple(problems), tuple(suggestions(case)) if problems else (), measured
    )
