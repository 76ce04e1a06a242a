"""From a recipe to what is to be planned: the model's shape, the texts' lengths, the device."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from scorl.errors import UserError
from scorl.planning.device import DEVICES, EFFICIENCY, Device
from scorl.planning.setup import Lengths, Parallel, Setup
from scorl.planning.shape import ModelShape
from scorl.planning.texts import Given, lengths_of, shape_of
from scorl.recipe import Recipe

__all__ = ["Wanted", "described", "prepared"]

UNMEASURED = Device("cpu", 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Wanted:
    """The devices, and what samples on them."""

    gpu: str | None = None
    """A name in `DEVICES`; None: this CPU, measured."""
    count: int | None = None
    """None: the recipe's `launcher.workers`."""
    parallel: Parallel | None = None
    """None: the recipe's."""
    engine: str | None = None
    """None: the recipe's."""
    efficiency: float = EFFICIENCY


def prepared(recipe: Recipe, wanted: Wanted, given: Given, config: Path | None = None) -> Setup:
    """What is to be planned.

    Args:
        recipe: what is to be run.
        wanted: on what.
        given: lengths that need not be found out.
        config: the model's config.json, where the model itself is out of reach.

    Raises:
        UserError: the model's configuration or the task cannot be had, or several CPUs are wanted.
    """
    count = _devices(recipe, wanted)
    if wanted.gpu is None and count > 1:
        raise UserError(
            f"{count} devices want --gpu NAME: {', '.join(sorted(DEVICES))}; on CPUs --gpus 1 plans one process"
        )
    lengths = lengths_of(recipe, given, by_name=config is None)
    setup = described(recipe, wanted, shape_of(recipe, config), lengths)
    if wanted.gpu:
        return setup
    from scorl.planning.probe import this_cpu

    return replace(setup, device=this_cpu(setup))


def described(recipe: Recipe, wanted: Wanted, shape: ModelShape, lengths: Lengths) -> Setup:
    """What a recipe says of memory and time; a CPU is still to be measured."""
    return Setup(
        shape=shape,
        lengths=lengths,
        stages=recipe.stages,
        device=DEVICES[wanted.gpu] if wanted.gpu else UNMEASURED,
        dtype=recipe.model.dtype,
        lora=recipe.model.lora,
        learner=recipe.learner,
        engine=wanted.engine or recipe.engine.name,
        batch_size=getattr(recipe.engine.settings, "batch_size", 256),
        temperature=recipe.engine.temperature,
        count=_devices(recipe, wanted),
        parallel=wanted.parallel or recipe.launcher.parallel,
        efficiency=wanted.efficiency,
    )


def _devices(recipe: Recipe, wanted: Wanted) -> int:
    return wanted.count or recipe.launcher.workers or 1
