"""What a recipe leaves to the machine: decided once, when a run begins, and written down with it.

`model.dtype`, `engine.name`, `learner.importance_sampling_cap` and `learner.use_liger_kernel` may be `auto`, and
`model.onednn` and `model.chat_template_date` null. A run directory holds none of these, so that a run stays what it was
wherever and whenever it goes on, whatever would be measured there. Where one of an earlier version does, or lacks a
key, it goes on as that version computed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import date
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from scorl.engines import choose_engine
from scorl.model.dtype import choose_dtype, choose_onednn
from scorl.model.liger import choose_liger
from scorl.model.loading import load_hollow
from scorl.recipe.sections import Recipe
from scorl.settings import AutoSettings

if TYPE_CHECKING:
    import torch

__all__ = ["decide", "decided_like", "device_kind"]


def decide(recipe: Recipe, device: torch.device, vllm: bool, hollow: Callable[[], Any] | None = None) -> Recipe:
    """The recipe without `auto`, as it is run on a device.

    Args:
        recipe: may hold `auto`.
        device: that it is run on.
        vllm: whether vLLM is there.
        hollow: builds the model without weights, where its size or type matters; None: `load_hollow`.

    Raises:
        UserError: these matter, and the model cannot be had.
    """
    hollow = cache(hollow or partial(load_hollow, recipe.model.path))
    engine, learner = recipe.engine, recipe.learner
    if isinstance(engine.settings, AutoSettings):
        name, settings = choose_engine(engine.settings, device, vllm)
        engine = replace(engine, name=name, settings=settings)
    liger = choose_liger(learner.use_liger_kernel, device, engine.name, lambda: str(hollow().config.model_type))
    learner = replace(learner.with_cap_for("other" if engine.name == "vllm" else "same"), use_liger_kernel=liger)

    def count() -> int:
        return int(hollow().num_parameters())

    dtype = choose_dtype(recipe.model.dtype, device, count)
    onednn = choose_onednn(recipe.model.onednn, dtype, device, count)
    day = recipe.model.chat_template_date or date.today().isoformat()
    model = replace(recipe.model, dtype=dtype, onednn=onednn, chat_template_date=day)
    return replace(recipe, model=model, engine=engine, learner=learner)


def decided_like(recipe: Recipe, started: Recipe) -> Recipe:
    """The recipe with what was decided when a run was started in the place of `auto`."""
    model, engine, learner = recipe.model, recipe.engine, recipe.learner
    started = _as_it_ran(started)
    if model.dtype == "auto":
        model = replace(model, dtype=started.model.dtype)
    if model.onednn is None:
        model = replace(model, onednn=started.model.onednn)
    if model.chat_template_date is None:
        model = replace(model, chat_template_date=started.model.chat_template_date)
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


def device_kind(name: str) -> torch.device:
    """What `resolve_device` finds by a name, but for the GPU's number: no GPU is taken hold of."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def _as_it_ran(started: Recipe) -> Recipe:
    """A run's recipe with what earlier versions did by themselves: oneDNN by a processor's name alone, and no Liger."""
    model, learner = started.model, started.learner
    if model.onednn is None:
        dtype = "float32" if model.dtype == "auto" else model.dtype
        onednn = choose_onednn(None, dtype, device_kind(model.device), lambda: 0)
        model = replace(model, onednn=onednn)
    if learner.use_liger_kernel == "auto":
        learner = replace(learner, use_liger_kernel=False)
    return replace(started, model=model, learner=learner)
