"""`scorl diff`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from scorl.cli.output import print_grid, say
from scorl.cli.paths import UserPath

if TYPE_CHECKING:
    from scorl.evaluation import Summary

__all__ = ["diff"]

EVALUATED = UserPath(exists=True)


@click.command()
@click.argument("before", type=EVALUATED)
@click.argument("after", type=EVALUATED)
@click.option("--split", help="Of runs that were evaluated on several.")
def diff(before: Path, after: Path, split: str | None) -> None:
    """Compare two evaluations, with the interval and p of each change.

    BEFORE and AFTER are run directories, of which the latest evaluation counts, or files that `scorl evaluate --out`
    wrote. Where both are about the same problems, changes are paired by problem.
    """
    from scorl.report import tabulate_change
    from scorl.report.evaluations import name_differences, read_evaluation

    old, new = read_evaluation(before, split), read_evaluation(after, split)
    for difference in name_differences(old, new):
        say(f"not alike: {difference}")
    say(f"before: {_describe(before, old)}\nafter:  {_describe(after, new)}\n", err=False)
    print_grid(tabulate_change(old, new))


def _describe(path: Path, evaluation: Summary) -> str:
    """What an evaluation is of; of a run also which of its evaluations it is."""
    updates = f", after {evaluation['step']} updates" if "step" in evaluation else ""
    return f"{path}, {evaluation['model']}{updates}"
