"""`scorl show`."""

from __future__ import annotations

from pathlib import Path

import click

from scorl.cli.paths import UserPath

__all__ = ["show"]

RUN = UserPath(exists=True)


@click.command()
@click.argument("run", type=RUN)
@click.option("--flip", metavar="CLASS", help="fixed (wrong, then right), broken, right or wrong (both times).")
@click.option("--step", type=click.IntRange(min=0), help="Of this step alone.  [default: the newest ones first]")
@click.option("--held-out", is_flag=True, help="Those of the evaluations, by the steps before them.")
@click.option("--problem", metavar="ID")
@click.option("--limit", type=click.IntRange(min=1), default=10, show_default=True)
def show(run: Path, flip: str | None, step: int | None, held_out: bool, problem: str | None, limit: int) -> None:
    """Read trajectories of RUN (a run directory or a file of attempts), with what changed marked."""
    from rich.console import Console

    from scorl.report import show_trajectories

    console = Console()
    if not show_trajectories(run, console, flip=flip, step=step, problem=problem, held_out=held_out, limit=limit):
        click.echo("no trajectory fits", err=True)
