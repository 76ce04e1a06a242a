"""What a recipe leaves to the machine: decided once, when a run begins, and written down with it.

`model.dtype`, `engine.name` and `learner.importance_sampling_cap` may be `auto`. A run directory never holds the word,
so that a run stays what it was wherever it goes on.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from scorl.engines import choose_engine
from scorl.model.dtype import choose_dtype
from scorl.recipe.sections import Recipe
from scorl.settings import AutoSettings

if TYPE_CHECKING:
    import torch

__all__ = ["decide", "decided_like"]


def decide(recipe: Recipe, device: torch.device, vllm: bool) -> Recipe:
    """The recipe without `auto`, as it is run on a device, and with vLLM or without it."""
    engine, learner = recipe.engine, recipe.learner
    if isinstance(engine.settings, AutoSettings):
        name, settings = choose_engine(engine.settings, device, vllm)
        engine = replace(engine, name=name, settings=settings)
    learner = learner.with_cap_for("other" if engine.name == "vllm" else "same")
    model = replace(recipe.model, dtype=choose_dtype(recipe.model.dtype, device))
    return replace(recipe, model=model, engine=engine, learner=learner)


def decided_like(recipe: Recipe, started: Recipe) -> Recipe:
    """The recipe with what was decided when a run was started in the place of `auto`."""
    model, engine, learner = recipe.model, recipe.engine, recipe.learner
    if model.dtype == "auto":
        model = replace(model, dtype=started.model.dtype)
    if isinstance(engine.settings, AutoSettings):
        settings = started.engine.settings
        if hasattr(settings, "batch_size"):
            settings = replace(settings, batch_size=engine.settings.batch_size)
        engine = replace(engine, name=started.engine.name, settings=settings)
    if learner.importance_sampling_cap == "auto":
        learner = replace(learner, importance_sampling_cap=started.learner.importance_sampling_cap)
    return replace(recipe, model=model, engine=engine, learner=learner)
