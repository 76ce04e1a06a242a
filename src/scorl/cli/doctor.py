"""`scorl doctor`."""

from __future__ import annotations

from itertools import chain

import click

from scorl.cli.output import quiet

__all__ = ["doctor"]


@click.command()
@click.argument("model", required=False)
def doctor(model: str | None) -> None:
    """Say what this machine, this installation and, if given, MODEL can do."""
    from scorl.cli.checks import check_installation, check_model, check_rates, check_sandbox

    quiet()
    of_model = check_model(model) if model else ()
    for name, text in chain(check_installation(), check_rates(), check_sandbox(), of_model):
        click.echo(f"{name:<17} {text}")
