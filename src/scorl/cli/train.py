"""`scorl train`."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scorl.cli.output import print_grid, quiet
from scorl.distributed.ranks import launched_rank, process_group
from scorl.errors import UserError

if TYPE_CHECKING:
    from scorl.distributed.ranks import Ranks
    from scorl.recipe import Recipe
    from scorl.run.run import Result

__all__ = ["run_directory", "train"]


BEGUN = ("steps.jsonl", "checkpoints", "evaluation.json")
"""A folder with none of these is no run yet, whatever a failed start left in it."""


@click.command()
@click.argument("recipe", required=False)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Run directory.  [default: runs/RECIPE]")
@click.option(
    "--resume",
    is_flag=False,
    flag_value="yes",
    metavar="[auto]",
    help="Go on from the newest checkpoint. `auto`: if there is a run to go on with; else start one.",
)
def train(recipe: str | None, overrides: tuple[str, ...], out: Path | None, resume: str | None) -> None:
    """Train by RECIPE: a file, the name of a shipped recipe, or a run directory to go on with.

    Keys of the recipe are set as in stages.1.alpha=5.
    """
    if recipe is None:  # in `train --resume RUN` the option has taken RUN
        if resume in (None, "yes", "auto"):
            raise UserError("train needs a recipe or a run directory; `scorl recipes` lists the shipped recipes")
        recipe, resume = resume, "yes"
    resolved, out = _recipe_and_place(recipe, overrides, out, resume)
    launcher = resolved.launcher
    if launcher.name == "torchrun" and launcher.workers != 1 and launched_rank() is None:
        again = ["train", recipe, *overrides, "--out", str(out), *([f"--resume={resume}"] if resume else [])]
        raise SystemExit(_by_torchrun(resolved, again, out))
    if launcher.name == "ray":
        _tell(_by_ray(resolved, out.resolve()), resolved)
        return
    with process_group(launcher.workers, launcher.timeout, resolved.model.device) as ranks:
        result = _run(resolved, out, ranks)
        if ranks.main:
            _tell(result, resolved)
        ranks.barrier("what rank 0 writes at the end")
    if result.interrupted:
        raise SystemExit(130)


def _by_torchrun(recipe: Recipe, arguments: list[str], out: Path) -> int:
    """The same command on processes of this machine; its exit code."""
    from scorl.distributed.torchrun import launch

    where, device = recipe.launcher, recipe.model.device
    return launch(arguments, where.workers or 1, timeout=where.timeout, device=device, logs=out / "ranks")


def _by_ray(recipe: Recipe, out: Path) -> Result:
    """The run on the workers of a Ray cluster."""
    from scorl.distributed.ray import launch

    where = recipe.launcher
    return launch(
        partial(_run, recipe, out),
        where.workers or 1,
        timeout=where.timeout,
        restarts=where.restarts,
        device=recipe.model.device,
        folder=out / "ranks",
    )


def _tell(result: Result, recipe: Recipe) -> None:
    """Say how a run ended, and write its report."""
    out = result.directory
    if result.evaluation:
        _print_change(result.evaluation[recipe.evaluation.split]["history"])
    for alarm in result.alarms:
        click.echo(f"alarm: {alarm}", err=True)
    if result.interrupted:
        click.echo(f"saved after step {result.steps}; go on with: scorl train {out} --resume", err=True)
        return
    from scorl.report import write_report

    click.echo(f"done: read {write_report(out)}, or the attempts with: scorl show {out}", err=True)


def _recipe_and_place(
    recipe: str, overrides: tuple[str, ...], out: Path | None, resume: str | None
) -> tuple[Recipe, Path]:
    """The checked recipe and its run directory, after a look at what lies there."""
    from scorl.recipe import resolve

    if resume not in (None, "yes", "auto"):
        raise UserError(f"--resume takes nothing or auto, not '{resume}': write it after everything else")
    is_run = (Path(recipe) / "recipe.yaml").is_file()
    out = out or (Path(recipe) if is_run else run_directory(recipe))
    if is_run and out.resolve() == Path(recipe).resolve() and resume is None:
        raise UserError(f"{recipe} is a run: go on with it by --resume, or start another from its recipe with --out")
    resolved = resolve(recipe, overrides)
    if not launched_rank():  # of several ranks the first looks, and the others wait for it
        _check_place(resolved, out, resume)
    return resolved, out


def run_directory(recipe: str) -> Path:
    """Where a recipe runs unless told otherwise.

    >>> run_directory("recipes/qwen2.5.yaml").as_posix()
    'runs/qwen2.5'
    """
    return Path("runs") / re.sub(r"\.ya?ml$", "", Path(recipe).name)


def _check_place(recipe: Recipe, out: Path, resume: str | None) -> None:
    """A run goes on by its own recipe alone, if perhaps on another number of processes; none starts over another."""
    from scorl.recipe import differences, resolve

    if not any((out / name).exists() for name in BEGUN):
        if resume == "yes":
            raise UserError(f"{out}: there is no run to go on with")
        if out.is_dir() and {p.name for p in out.iterdir()} - {"recipe.yaml", "attempts", "collected", "ranks"}:
            raise UserError(f"{out}: this folder is not empty, and no run; choose another with --out")
    elif resume is None:
        raise UserError(
            f"{out}: there is a run already; go on with it by --resume, or choose another folder with --out"
        )
    elif changed := differences(resolve(out), recipe):
        raise UserError(
            "\n  ".join([f"{out}: a run goes on by the recipe it was started with, which differs:", *changed])
        )


def _run(recipe: Recipe, out: Path, ranks: Ranks) -> Result:
    from scorl.run.build import planned
    from scorl.run.loggers import loggers
    from scorl.run.progress import Progress
    from scorl.run.run import perform

    quiet()
    plan = planned(recipe, ranks)
    if not ranks.main:
        return perform(plan, out, ranks=ranks)
    for difference in plan.policy.chat.differences():
        click.echo(f"chat template: {difference}", err=True)
    with loggers(recipe.loggers, out, recipe.as_dict()) as send, Progress(recipe.steps) as progress:

        def report(line: dict[str, Any]) -> None:
            progress(line)
            send(line)

        return perform(plan, out, report, progress.between, ranks)


def _print_change(history: list[dict[str, Any]]) -> None:
    from scorl.report import before_after_grid, evaluation_grid

    print_grid(before_after_grid(history[0], history[-1]) if len(history) > 1 else evaluation_grid(history[0]))
