"""`scorl doctor`."""

from __future__ import annotations

import click

from scorl.cli.output import quiet

__all__ = ["doctor"]


@click.command()
@click.argument("model", required=False)
def doctor(model: str | None) -> None:
    """Say what this machine, this installation and, if given, MODEL can do."""
    from scorl.cli.checks import of_installation, of_model, of_rates, of_sandbox

    quiet()
    for name, text in of_installation():
        click.echo(f"{name:<17} {text}")
    for name, text in of_rates():
        click.echo(f"{name:<17} {text}")
    for name, text in of_sandbox():
        click.echo(f"{name:<17} {text}")
    for name, text in of_model(model) if model else ():
        click.echo(f"{name:<17} {text}")
