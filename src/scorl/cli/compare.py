"""`scorl compare`."""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from scorl.cli.output import check_folder, print_grid, say
from scorl.cli.paths import UserPath
from scorl.errors import UserError

if TYPE_CHECKING:
    from scorl.compare import Comparison, Run
    from scorl.compare.tuning import Tuning

__all__ = ["compare"]


@click.command()
@click.argument("recipe")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--methods", metavar="A,B,...", help="Which arms; METHOD:KEY=VALUE sets keys of its recipe.  [default: the paper's]"
)
@click.option("--seeds", type=click.IntRange(1, 1000), default=5, show_default=True, help="Runs of each arm.")
@click.option(
    "--tune",
    metavar="KEY=A,B,...",
    help="First run every arm that trains with each of these values, and keep the one with the best final accuracy on "
    "the validation split; the recipe's own, if it is as good.",
)
@click.option(
    "--tune-seeds",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Runs of each value. Their seeds begin 1000 above the recipe's, so that none is one of the table's.",
)
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Runs at a time.")
@click.option("--out", type=UserPath(file_okay=False), help="[default: runs/compare-RECIPE]")
@click.option("--dry-run", is_flag=True, help="Check every recipe and list the runs.")
def compare(
    recipe: str,
    overrides: tuple[str, ...],
    methods: str | None,
    seeds: int,
    tune: str | None,
    tune_seeds: int,
    jobs: int,
    out: Path | None,
    dry_run: bool,
) -> None:
    """Train every method of the paper, or those of --methods, by one SCoRe RECIPE and write one table.

    The runs are ordinary run directories below OUT; those that are there are reused, those that were interrupted
    resume. OUT gets table.md, compare.json and report.html. The runs of --tune lie in OUT/tune; where another value
    than the recipe's is best, the arm's runs lie in OUT/ARM:KEY=VALUE.
    """
    from scorl.cli.train import default_folder
    from scorl.compare import parse_arms, plan_runs, summarize_runs
    from scorl.compare.tuning import TRIALS, choose_values, describe_choice, parse_tuning, pick_arms, plan_trials
    from scorl.recipe import resolve
    from scorl.run.directory import LOCK
    from scorl.run.lock import exclusive

    place = out or default_folder(recipe).with_name(f"compare-{default_folder(recipe).name}")
    check_folder(place)
    base, arms = resolve(recipe, overrides), parse_arms(methods)
    runs = plan_runs(base, arms, seeds, place)
    tuning = parse_tuning(tune, base, tune_seeds) if tune is not None else None
    trials = plan_trials(base, arms, tuning, place) if tuning else []
    if dry_run:
        _list_runs(trials, runs, tuning)
        return
    click.get_current_context().with_resource(exclusive(place / LOCK))
    failed = _execute(trials, place / TRIALS, jobs)
    tuned = choose_values(base, arms, tuning, trials) if tuning else {}
    for arm, choice in tuned.items():
        say(describe_choice(arm, choice))
    if tuning:
        runs = plan_runs(base, pick_arms(arms, tuned), seeds, place)
        if all(arm in tuned for arm in arms if arm.trains):
            failed = []  # a value with which a run fails is one that is not chosen
    failed += _execute(runs, place, jobs, trials)
    comparison = summarize_runs(runs, tuned)
    if not comparison.rows:
        raise UserError(f"no run came to its end; their last words are in {failed[0].log}")
    _write(comparison, place)
    if failed:
        say(f"{len(failed)} runs failed, and the table is without them: {', '.join(r.name for r in failed)}")
        raise SystemExit(1)


def _list_runs(trials: list[Run], runs: list[Run], tuning: Tuning | None) -> None:
    """Every run and its stages, and what is not known yet."""
    for run in [*trials, *runs]:
        stages = ", ".join(f"{s.label} {s.steps}" for s in run.recipe.stages) or "measured only"
        say(f"{run.directory}: {stages}", err=False)
    if tuning:
        say(
            f"The runs in tune/ decide {tuning.key} of the others; where it is not the recipe's own, an arm's runs "
            f"lie in ARM:{tuning.key}=VALUE.",
            err=False,
        )


def _write(comparison: Comparison, place: Path) -> None:
    """The files of a comparison; its table is shown as well."""
    from scorl.compare import tabulate_comparison, tabulate_equal_tokens
    from scorl.report import to_markdown, write_report
    from scorl.run.files import write_whole

    grids = [tabulate_comparison(comparison)]
    if comparison.equal_tokens:
        grids.append(tabulate_equal_tokens(comparison.equal_tokens))
    write_whole(place / "compare.json", json.dumps(comparison.as_dict(), indent=1) + "\n")
    write_whole(place / "table.md", "\n".join(map(to_markdown, grids)))
    for grid in grids:
        print_grid(grid)
    say(f"done: read {write_report(place)}; table.md and compare.json are beside it")


def _execute(runs: list[Run], place: Path, jobs: int, before: Sequence[Run] = ()) -> list[Run]:
    """The runs that failed; after Ctrl-C or SIGTERM the running ones have saved."""
    from scorl.compare import execute_runs

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return execute_runs(runs, place, jobs, say, before)
    except KeyboardInterrupt:
        click.echo("interrupted; the runs have saved, and the same command resumes them", err=True)
        raise SystemExit(130) from None
