"""What commands that sample from a model have in common: the engine, and whose settings are whose."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from scorl.engines import ENGINES
from scorl.errors import UserError

if TYPE_CHECKING:
    from scorl.engines.engine import Dialogue
    from scorl.recipe.sampler import Sampler
    from scorl.tasks.task import Task
    from scorl.trajectory import Problem

__all__ = ["engine_option", "resolve_sampler", "split_settings", "warn_of_context"]

engine_option = click.option(
    "--engine",
    type=click.Choice(list(ENGINES)),
    default="auto",
    show_default=True,
    help="What samples; its settings are given as in engine.batch_size=64. auto: vllm on a GPU where it is installed, "
    "else torch.",
)


def split_settings(settings: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Settings of the model and the engine, which begin with `model.` or `engine.`, and those of the task."""
    of_sampler = [setting for setting in settings if setting.startswith(("model.", "engine."))]
    return of_sampler, [setting for setting in settings if setting not in of_sampler]


def resolve_sampler(model: str, engine: str, settings: Sequence[str]) -> Sampler:
    """The model and the engine; a model that a run trained is asked as there.

    Raises:
        UserError: the run has no checkpoint yet.
    """
    from scorl import recipe
    from scorl.run.directory import RunDirectory

    run = RunDirectory.of_model(model)
    if run is None:
        return recipe.resolve_sampler(model, engine, settings)
    trained, has_stages = recipe.resolve_trained(run.path)
    if not has_stages:  # it measures the model that it starts from
        model = trained.path
    elif not run.saved_steps():
        raise UserError(f"{run.path}: this run has saved no checkpoint yet: scorl train {run.path} --resume")
    return recipe.resolve_sampler(model, engine, settings, trained=trained)


def warn_of_context(
    sampler: Sampler, chat: Dialogue, task: Task, problems: Sequence[Problem], attempts: int, max_tokens: int
) -> None:
    """See `check_context`; nothing is known of what an endpoint takes."""
    from scorl.model.chat import Chat
    from scorl.model.context import check_context, usable_positions
    from scorl.model.loading import load_config

    if not isinstance(chat, Chat):
        return
    positions = usable_positions(sampler.engine.settings, load_config(sampler.model.path))
    if warning := check_context(chat, problems, task.turns(attempts), max_tokens, positions):
        warnings.warn(warning, stacklevel=2)
