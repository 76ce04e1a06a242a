"""`scorl watch`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from scorl.cli.output import say
from scorl.cli.paths import UserPath

if TYPE_CHECKING:
    from rich.console import Console

    from scorl.report.watch import WatchedRun

__all__ = ["watch"]


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=UserPath(file_okay=False))
@click.option("--once", is_flag=True, help="Show the present state and end.")
@click.option(
    "--interval", type=click.FloatRange(min=0.05), default=1.0, show_default=True, help="Seconds between two looks."
)
def watch(runs: tuple[Path, ...], once: bool, interval: float) -> None:
    """Follow trainings by their run directories, until they are done or Ctrl-C.

    Files are read and nothing else is done, so that it works on another machine's disk and through ssh. In a pipe each
    step and each evaluation is a line.
    """
    from rich.console import Console

    from scorl.report.watch import WatchedRun
    from scorl.run.directory import RunDirectory

    console, watched = Console(), [WatchedRun(RunDirectory(path)) for path in runs]
    if once:
        _show_once(console, watched)
    elif console.is_terminal:
        _follow_live(console, watched, interval)
    else:
        _follow_plainly(watched, interval)


def _show_once(console: Console, watched: list[WatchedRun]) -> None:
    from scorl.report.live import describe_new, describe_state, draw_all

    for run in watched:
        run.refresh()
    if console.is_terminal:
        console.print(draw_all(watched))
        return
    for run in watched:
        say(f"{_name(run, watched)}{describe_state(run)}", err=False)
        for line in describe_new(run, len(run.steps) - 1 if run.steps else 0, max(0, len(run.history) - 1)):
            say(f"{_name(run, watched)}{line}", err=False)
        for alarm in run.alarms:
            say(f"{_name(run, watched)}alarm: {alarm}", err=False)


def _follow_live(console: Console, watched: list[WatchedRun], interval: float) -> None:
    from rich.live import Live

    from scorl.report.live import draw_all

    with Live(console=console, auto_refresh=False, vertical_overflow="ellipsis") as live:
        while True:
            for run in watched:
                run.refresh()
            live.update(draw_all(watched), refresh=True)
            if all(run.done for run in watched):
                return
            time.sleep(interval)


def _follow_plainly(watched: list[WatchedRun], interval: float) -> None:
    from scorl.report.live import describe_new, describe_state

    said = {id(run): (0, 0) for run in watched}
    waiting = True
    while True:
        for run in watched:
            run.refresh()
            steps, evaluations = said[id(run)]
            # a run that was resumed has cut off some lines, and writes them again
            steps, evaluations = min(steps, len(run.steps)), min(evaluations, len(run.history))
            if waiting and not run.steps and not run.history:
                say(f"{_name(run, watched)}{describe_state(run)}", err=False)
            for line in describe_new(run, steps, evaluations):
                say(f"{_name(run, watched)}{line}", err=False)
            said[id(run)] = (len(run.steps), len(run.history))
        waiting = False
        if all(run.done for run in watched):
            return
        time.sleep(interval)


def _name(run: WatchedRun, watched: list[WatchedRun]) -> str:
    """In front of a line, where there are several runs."""
    return f"{run.run.path.name}: " if len(watched) > 1 else ""
