"""What a recipe leaves to the machine: decided once, when a run begins, and written down with it.

`model.dtype`, `engine.name`, `learner.importance_sampling_cap` and `learner.use_liger_kernel` may be `auto`, and
`model.onednn` null. A run directory never holds these, so that a run stays what it was wherever it goes on, whatever
would be measured there.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial
from typing import TYPE_CHECKING

from scorl.engines import choose_engine
from scorl.model.dtype import Count, choose_dtype, choose_onednn
from scorl.model.liger import choose_liger
from scorl.model.loading import count_parameters, find_model_type
from scorl.recipe.sections import Recipe
from scorl.settings import AutoSettings

if TYPE_CHECKING:
    import torch

__all__ = ["decide", "decided_like"]


def decide(recipe: Recipe, device: torch.device, vllm: bool, count: Count | None = None) -> Recipe:
    """The recipe without `auto`, as it is run on a device.

    Args:
        recipe: may hold `auto`.
        device: that it is run on.
        vllm: whether vLLM is there.
        count: counts the model's parameters; None: `count_parameters`.

    Raises:
        UserError: the parameters of the model matter, and it cannot be had.
    """
    engine, learner = recipe.engine, recipe.learner
    if isinstance(engine.settings, AutoSettings):
        name, settings = choose_engine(engine.settings, device, vllm)
        engine = replace(engine, name=name, settings=settings)
    liger = choose_liger(learner.use_liger_kernel, device, engine.name, partial(find_model_type, recipe.model.path))
    learner = replace(learner.with_cap_for("other" if engine.name == "vllm" else "same"), use_liger_kernel=liger)
    count = count or cache(partial(count_parameters, recipe.model.path))
    model = replace(
        recipe.model,
        dtype=choose_dtype(recipe.model.dtype, device, count),
        onednn=choose_onednn(recipe.model.onednn, device, count),
    )
    return replace(recipe, model=model, engine=engine, learner=learner)


def decided_like(recipe: Recipe, started: Recipe) -> Recipe:
    """The recipe with what was decided when a run was started in the place of `auto`."""
    model, engine, learner = recipe.model, recipe.engine, recipe.learner
    if model.dtype == "auto":
        model = replace(model, dtype=started.model.dtype)
    if model.onednn is None:
        model = replace(model, onednn=started.model.onednn)
    if isinstance(engine.settings, AutoSettings):
        settings = started.engine.settings
        if hasattr(settings, "batch_size"):
            settings = replace(settings, batch_size=engine.settings.batch_size)
        engine = replace(engine, name=started.engine.name, settings=settings)
    if learner.importance_sampling_cap == "auto":
        learner = replace(learner, importance_sampling_cap=started.learner.importance_sampling_cap)
    if learner.use_liger_kernel == "auto":
        learner = replace(learner, use_liger_kernel=started.learner.use_liger_kernel)
    return replace(recipe, model=model, engine=engine, learner=learner)
