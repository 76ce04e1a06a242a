"""`scorl report`."""

from __future__ import annotations

from pathlib import Path

import click

from scorl.cli.output import check_folder, check_writable, is_stdout, open_output, say
from scorl.cli.paths import UserPath

__all__ = ["report"]

RUN = UserPath(exists=True, file_okay=False)


@click.command()
@click.argument("runs", nargs=-1, required=True, type=RUN, metavar="RUN...")
@click.option(
    "--out",
    type=UserPath(dir_okay=False),
    help="The file.  [default: report.html in RUN; of several, in this folder]",
)
@click.option(
    "--figures",
    type=UserPath(file_okay=False),
    metavar="DIR",
    help="Also write figures for papers there, SVG and PDF (the extra `figures`).",
)
@click.option(
    "--megabytes",
    type=click.IntRange(min=1),
    default=256,
    show_default=True,
    help="Of recorded attempts that are taken whole; of more, those of every 2nd, 3rd, ... step.",
)
def report(runs: tuple[Path, ...], out: Path | None, figures: Path | None, megabytes: int) -> None:
    """Write report.html of RUN: every attempt, curves, tables; one file, no network needed.

    Of several RUNs the curves are laid over each other. A RUN may also be a folder that `scorl compare` or
    `scorl scale` wrote.
    """
    from scorl.report import gather_report, render_report, save_report, write_figures

    check_writable(out)
    if figures:
        check_folder(figures)
    gathered = gather_report(runs, megabytes)
    if out:
        with open_output(out) as handle:
            handle.write(render_report(gathered))
        say(str(out), err=is_stdout(out))  # there it would stand behind the page
    else:
        say(str(save_report(gathered, runs)), err=False)
    if figures:
        for path in write_figures(gathered, figures):
            say(str(path), err=False)
