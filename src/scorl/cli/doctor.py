"""`scorl doctor`."""

from __future__ import annotations

from itertools import chain

import click

from scorl.cli.output import quiet, say
from scorl.cli.sampling import ENDPOINT, resolve_sampler
from scorl.errors import UserError

__all__ = ["doctor"]


@click.command()
@click.argument("model", required=False)
@click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...")
def doctor(model: str | None, settings: tuple[str, ...]) -> None:
    """Say what this machine, this installation and, if given, MODEL can do.

    Settings of the model are given as a recipe has them, as in model.chat_template=plain.
    """
    from scorl.cli.checks import check_installation, check_model, check_rates, check_sandbox
    from scorl.model.chat import Chat

    if model and ENDPOINT.fullmatch(model):
        raise UserError(f"{model} is elsewhere, and there is nothing of it to look at here: scorl evaluate asks it")
    quiet()
    chosen = resolve_sampler(model, "torch", settings).model if model else None
    # The chat is read before this machine is measured: what is wrong with it shows at once.
    of_model = check_model(chosen, Chat.of_model(chosen)) if chosen else ()
    for name, text in chain(check_installation(), check_rates(), check_sandbox(), of_model):
        say(f"{name:<17} {text}", err=False)
