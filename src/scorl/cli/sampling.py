"""What commands that sample from a model have in common: the engine, and whose settings are whose."""

from __future__ import annotations

import click

from scorl.engines import ENGINES

__all__ = ["engine_option", "split_settings"]

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
