"""`scorl train`."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scorl.cli.output import check_folder, print_grid, quiet, say, speak_plainly_in_logs
from scorl.cli.paths import UserPath
from scorl.distributed.ranks import launched_rank, process_group
from scorl.errors import UserError
from scorl.text_files import as_path, make_visible

if TYPE_CHECKING:
    from scorl.distributed.ranks import Ranks
    from scorl.recipe import Recipe
    from scorl.run.directory import RunDirectory
    from scorl.run.files import Record
    from scorl.run.run import RunResult

__all__ = ["default_folder", "train"]


@click.command()
@click.argument("recipe", required=False)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--out", type=UserPath(file_okay=False), help="Run directory.  [default: runs/RECIPE]")
@click.option(
    "--resume",
    is_flag=False,
    flag_value="yes",
    metavar="[auto]",
    help="Resume from the newest checkpoint. `auto`: if there is a run to resume; else start one.",
)
@click.option("--dry-run", is_flag=True, help="Check all that a run checks before weights are read; print the recipe.")
@click.option("--show-prompts", is_flag=True, help="Print what the model will see of two problems, and train nothing.")
def train(
    recipe: str | None,
    overrides: tuple[str, ...],
    out: Path | None,
    resume: str | None,
    dry_run: bool,
    show_prompts: bool,
) -> None:
    """Train by RECIPE: a file, the name of a shipped recipe, or a run directory to resume.

    Keys of the recipe are set as in stages.1.alpha=5. A run resumes by `scorl train RUN --resume`, or with a change
    by `scorl train RUN stages.1.steps=300 --resume`: --resume stands last.
    """
    if recipe is None:  # in `train --resume RUN` the option has taken RUN
        if resume in (None, "yes", "auto"):
            raise UserError("train needs a recipe or a run directory; `scorl recipes` lists the shipped recipes")
        recipe, resume = resume, "yes"
    if show_prompts and dry_run:
        raise UserError("--dry-run and --show-prompts are two things to do in place of training: give one of them")
    if show_prompts:
        _show_prompts(recipe, overrides)
        return
    resolved, directory = _recipe_and_directory(recipe, overrides, out, resume)
    if dry_run:
        _check_only(resolved, directory)
        return
    launcher = resolved.launcher
    if launcher.name == "torchrun" and launcher.workers != 1 and launched_rank() is None:
        again = ["--out", str(directory.path), *([f"--resume={resume}"] if resume else [])]
        raise SystemExit(_by_torchrun(resolved, ["train", recipe, *overrides, *again], directory))
    if launcher.name == "ray":
        _report_end(_by_ray(resolved, directory), resolved)
        return
    with process_group(launcher.workers, launcher.timeout, resolved.model.device) as ranks:
        result = _run(resolved, directory.path, ranks)
        if ranks.main:
            _report_end(result, resolved)
        ranks.barrier("what rank 0 writes at the end")
    if result.interrupted:
        raise SystemExit(130)


def _show_prompts(recipe: str, overrides: tuple[str, ...]) -> None:
    from scorl.cli.prompts import show_prompts
    from scorl.recipe import resolve

    quiet()
    for line in show_prompts(resolve(recipe, overrides)):
        click.echo(make_visible(line))  # whole, however long: the prompts are what was asked for


def _check_only(recipe: Recipe, directory: RunDirectory) -> None:
    from scorl.run.build import prepare
    from scorl.run.trackers import check_trackers

    quiet()
    check_trackers(recipe.loggers)
    decided, _, _ = prepare(recipe)
    click.echo(decided.dump(), nl=False)
    say(f"nothing was found wrong, and nothing trained: {recipe.steps} steps would go to {directory.path}")


def default_folder(recipe: str) -> Path:
    """Where a recipe runs unless told otherwise.

    >>> default_folder("recipes/qwen2.5.yaml").as_posix()
    'runs/qwen2.5'
    """
    return Path("runs") / re.sub(r"\.ya?ml$", "", Path(recipe).name)


def _recipe_and_directory(
    recipe: str, overrides: tuple[str, ...], out: Path | None, resume: str | None
) -> tuple[Recipe, RunDirectory]:
    """The checked recipe and its run directory, after a look at what lies there."""
    from scorl.recipe import decided_like, resolve
    from scorl.run.directory import RunDirectory

    if resume not in (None, "yes", "auto"):
        raise UserError(f"--resume takes nothing or auto, not '{resume}': write it after everything else")
    place = as_path(recipe)
    is_run = RunDirectory(place).has_recipe
    out = out or (place if is_run else default_folder(recipe))
    if is_run and out.resolve() == place.resolve() and resume is None:
        raise UserError(f"{recipe} is a run: resume it with --resume, or start another from its recipe with --out")
    resolved, directory = resolve(recipe, overrides), RunDirectory(out)
    if directory.begun and directory.has_recipe:
        resolved = decided_like(resolved, resolve(out))
    if not launched_rank():  # of several ranks the first looks, and the others wait for it
        _check_directory(resolved, directory, resume)
    return resolved, directory


def _check_directory(recipe: Recipe, directory: RunDirectory, resume: str | None) -> None:
    """A run resumes by its own recipe alone, perhaps made longer or on other processes; none starts over another."""
    from scorl.recipe import differences, is_longer, resolve
    from scorl.run.resumable import check_resumable, refuse_recipe

    out = directory.path
    check_folder(out)
    if not directory.begun:
        if not directory.free:
            raise UserError(f"{out}: this folder is not empty, and no run; choose another with --out")
        if directory.abandoned and launched_rank() is None:
            say(f"{out}: a start before this one ended before it had measured anything: begun anew")
        elif resume == "yes" and not directory.abandoned:
            raise UserError(f"{out}: there is no run to resume")
    elif resume is None:
        raise UserError(f"{out}: there is a run already; resume it with --resume, or choose another folder with --out")
    elif (changed := differences(started := resolve(out), recipe)) and not is_longer(recipe, started):
        raise refuse_recipe(str(out), changed)
    else:
        check_resumable(directory, started)


def _by_torchrun(recipe: Recipe, arguments: list[str], directory: RunDirectory) -> int:
    """The same command on processes of this machine; its exit code."""
    from scorl.distributed.torchrun import launch

    where, device = recipe.launcher, recipe.model.device
    with directory.lock():  # else what the ranks at work there have said would be deleted
        pass
    return launch(arguments, where.workers or 1, timeout=where.timeout, device=device, logs=directory.rank_logs)


def _by_ray(recipe: Recipe, directory: RunDirectory) -> RunResult:
    """The run on the workers of a Ray cluster."""
    from scorl.distributed.ray import launch

    where = recipe.launcher
    return launch(
        partial(_run, recipe, directory.path.resolve()),
        where.workers or 1,
        timeout=where.timeout,
        restarts=where.restarts,
        device=recipe.model.device,
        folder=directory.rank_logs.resolve(),
    )


def _run(recipe: Recipe, out: Path, ranks: Ranks) -> RunResult:
    from scorl.hub.card import describe_checkpoint
    from scorl.model.dtype import explain_dtype
    from scorl.model.loading import count_parameters
    from scorl.run.build import build, versions
    from scorl.run.directory import RunDirectory
    from scorl.run.loggers import Loggers
    from scorl.run.progress import ProgressLine
    from scorl.run.run import run_recipe
    from scorl.run.trackers import check_trackers

    speak_plainly_in_logs()  # a worker of Ray's has no command line
    quiet()
    if ranks.main:
        check_trackers(recipe.loggers)
    built, directory = build(recipe, ranks), RunDirectory(out, ranks)
    if not ranks.main:
        return run_recipe(built, directory)
    if recipe.model.dtype == "auto" and (
        reason := explain_dtype(built.policy.device, partial(count_parameters, recipe.model.path))
    ):
        say(f"model.dtype: {built.recipe.model.dtype}, {reason}")
    for difference in built.policy.chat.differences():
        say(f"chat template: {difference}")

    def notify(sentence: str) -> None:
        say(f"warning: {sentence}")

    with (
        Loggers(built.recipe, RunDirectory(out), versions(built)) as loggers,
        ProgressLine(recipe.steps) as progress,
    ):

        def on_step(record: Record) -> None:
            progress(record)
            loggers.step(record)

        describe = partial(describe_checkpoint, RunDirectory(out))
        listeners = (on_step, progress.between, notify, loggers.start, loggers.evaluation)
        return run_recipe(built, directory, *listeners, describe=describe)


def _report_end(result: RunResult, recipe: Recipe) -> None:
    """Say how a run ended, and write its report."""
    out = result.directory
    if result.evaluations:
        _print_change(result.evaluations[recipe.evaluation.split]["history"])
    for alarm in result.alarms:
        say(f"alarm: {alarm}")
    if result.interrupted:
        saved = f"saved after step {result.steps}" if result.steps else "stopped before the first step was saved"
        say(f"{saved}; resume with: scorl train {out} --resume")
        return
    from scorl.report import write_report

    say(f"done: read {write_report(out)}, or the attempts with: scorl show {out}")


def _print_change(history: list[dict[str, Any]]) -> None:
    from scorl.report import tabulate_change, tabulate_evaluation

    print_grid(tabulate_change(history[0], history[-1]) if len(history) > 1 else tabulate_evaluation(history[0]))
