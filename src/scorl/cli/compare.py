"""`scorl compare`."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import click

from scorl.cli.output import print_grid
from scorl.errors import UserError

if TYPE_CHECKING:
    from scorl.compare import Run

__all__ = ["compare"]


@click.command()
@click.argument("recipe")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--methods", metavar="A,B,...", help="Which arms; METHOD:KEY=VALUE sets keys of its recipe.  [default: all]"
)
@click.option("--seeds", type=click.IntRange(min=1), default=5, show_default=True, help="Runs of each arm.")
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Runs at a time.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="[default: runs/compare-RECIPE]")
@click.option("--dry-run", is_flag=True, help="Check every recipe and list the runs.")
def compare(
    recipe: str, overrides: tuple[str, ...], methods: str | None, seeds: int, jobs: int, out: Path | None, dry_run: bool
) -> None:
    """Train every method of the paper by one SCoRe RECIPE and write one table.

    The runs are ordinary run directories below OUT; those that are there are reused, those that were interrupted
    resume. OUT gets table.md, compare.json and report.html.
    """
    from scorl.cli.train import default_folder
    from scorl.compare import parse_arms, plan_runs, summarize_runs, tabulate_comparison
    from scorl.recipe import resolve
    from scorl.report import to_markdown, write_report
    from scorl.run.files import write_whole

    place = out or default_folder(recipe).with_name(f"compare-{default_folder(recipe).name}")
    runs = plan_runs(resolve(recipe, overrides), parse_arms(methods), seeds, place)
    if dry_run:
        for run in runs:
            stages = ", ".join(f"{s.label} {s.steps}" for s in run.recipe.stages) or "measured only"
            click.echo(f"{run.directory}: {stages}")
        return
    failed = _execute(runs, place, jobs)
    comparison = summarize_runs(runs)
    if not comparison.rows:
        raise UserError(f"no run came to its end; their last words are in {failed[0].log}")
    grid = tabulate_comparison(comparison)
    write_whole(place / "compare.json", json.dumps(comparison.as_dict(), indent=1) + "\n")
    write_whole(place / "table.md", to_markdown(grid))
    print_grid(grid)
    click.echo(f"done: read {write_report(place)}; table.md and compare.json are beside it", err=True)
    if failed:
        click.echo(
            f"{len(failed)} runs failed, and the table is without them: {', '.join(r.name for r in failed)}", err=True
        )
        raise SystemExit(1)


def _execute(runs: list[Run], place: Path, jobs: int) -> list[Run]:
    """The runs that failed; after Ctrl-C or SIGTERM the running ones have saved."""
    from scorl.compare import execute_runs

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return execute_runs(runs, place, jobs, lambda text: click.echo(text, err=True))
    except KeyboardInterrupt:
        click.echo("interrupted; the runs have saved, and the same command resumes them", err=True)
        raise SystemExit(130) from None
