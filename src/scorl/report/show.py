"""Trajectories in a terminal, their responses side by side, or as plain text."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from rich.console import Console
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from scorl.report.trajectories import ShownTrajectory, present, select
from scorl.run.attempts import read_attempts

__all__ = ["show_trajectories"]

STYLES = {"": "", "gone": "black on red", "new": "black on green"}
BRACKETS = {"": "{}", "gone": "[-{}-]", "new": "{{+{}+}}"}


def show_trajectories(
    path: Path | str,
    console: Console,
    *,
    flip: str | None = None,
    step: int | None = None,
    problem: str | None = None,
    held_out: bool = False,
    limit: int | None = 10,
) -> int:
    """Prints the matching trajectories of a run (its newest first) or attempts file, at most `limit`; returns how many.

    On a terminal responses stand side by side; elsewhere one below the other, with `[-gone-]` and `{+new+}`.

    Raises:
        UserError: there is nothing to read, or `flip` is no flip class.
    """
    printed = 0
    for responses in islice(select(read_attempts(path, step, held_out), flip=flip, problem=problem), limit):
        (_print_side_by_side if console.is_terminal else _print_plain)(console, present(responses))
        printed += 1
    return printed


def _print_side_by_side(console: Console, trajectory: ShownTrajectory) -> None:
    console.print(Rule(Text(trajectory.heading, style="bold"), align="left"))
    console.print(Text(trajectory.question, style="dim"))
    if trajectory.gold is not None:
        console.print(Text(f"gold answer: {trajectory.gold}", style="dim"))
    table = Table(expand=True, show_lines=False)
    for response in trajectory.responses:
        colour = {True: "green", False: "red", None: ""}[response.right]
        table.add_column(Text(response.label, style=colour), ratio=1)
    table.add_row(*(Text.assemble(*((text, STYLES[mark]) for text, mark in r.pieces)) for r in trajectory.responses))
    console.print(table)


def _print_plain(console: Console, trajectory: ShownTrajectory) -> None:
    gold = [] if trajectory.gold is None else [f"gold answer: {trajectory.gold}"]
    parts = [f"== {trajectory.heading}", trajectory.question, *gold]
    for response in trajectory.responses:
        parts += [f"-- {response.label}", "".join(BRACKETS[mark].format(text) for text, mark in response.pieces)]
    console.print(Text("\n".join(parts) + "\n"), soft_wrap=True)
