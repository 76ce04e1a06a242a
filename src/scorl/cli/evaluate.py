"""`scorl evaluate`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from scorl.cli.output import check_writable, open_output, print_grid, quiet
from scorl.cli.sampling import engine_option, resolve_sampler, split_settings, warn_of_context
from scorl.errors import UserError

if TYPE_CHECKING:
    from scorl.evaluation import Evaluation
    from scorl.recipe import TaskChoice
    from scorl.tasks.task import Task

__all__ = ["evaluate"]

FILE = click.Path(path_type=Path, dir_okay=False)
COUNT = click.IntRange(min=1)


@click.command()
@click.argument("model")
@click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--task", "task_name", help="The task, or file.py:Class; a run knows its own, its settings and wording.")
@engine_option
@click.option("--split", default="test", show_default=True)
@click.option("--attempts", type=COUNT, default=2, show_default=True)
@click.option("--samples", type=COUNT, default=1, show_default=True, help="Samples per problem.")
@click.option("--temperature", type=click.FloatRange(min=0), default=0.0, show_default=True, help="0 is greedy.")
@click.option("--max-tokens", type=COUNT, help="Longest response.  [default: the run's own, else 256]")
@click.option("--limit", type=COUNT, help="Only the first so many problems.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--out", type=FILE, help="Write the metrics as JSON.")
@click.option("--attempts-out", type=FILE, help="Write every attempt as a JSON line.")
def evaluate(
    model: str,
    settings: tuple[str, ...],
    task_name: str | None,
    engine: str,
    split: str,
    attempts: int,
    samples: int,
    temperature: float,
    max_tokens: int | None,
    limit: int | None,
    seed: int,
    out: Path | None,
    attempts_out: Path | None,
) -> None:
    """Measure self-correction of MODEL: a folder, a hub name, scorl:NAME, pypi:PACKAGE, or a run directory.

    Settings are given as a recipe has them: the task's as in path=data/svamp, the engine's as in
    engine.batch_size=64, the model's as in model.dtype=bfloat16. The engine vllm loads the model in its own server,
    so that it is in memory once.
    """
    of_sampler, of_task = split_settings(settings)
    sampler = resolve_sampler(model, engine, of_sampler)
    task, own_max_tokens = _task(model, task_name, of_task)
    task.split(split)
    for path in (out, attempts_out):
        check_writable(path)
    sampler.check()

    from scorl.evaluation import evaluate as measure
    from scorl.metrics import ADVICE, find_crowded, share_out_of_context
    from scorl.report import tabulate_evaluation
    from scorl.settings import EvaluationSettings

    quiet()
    loaded = sampler.build()
    longest, problems = max_tokens or own_max_tokens, task.split(split).take(limit)
    warn_of_context(sampler, loaded.chat, task, problems, attempts, longest)
    evaluation = measure(
        loaded,
        task,
        EvaluationSettings(problems=limit, temperature=temperature, samples=samples, split=split),
        model=model,
        attempts=attempts,
        max_tokens=longest,
        seed=seed,
        progress=lambda done, total: click.echo(f"{done}/{total} problems", err=True),
    )
    print_grid(tabulate_evaluation(evaluation))
    if alarm := find_crowded(share_out_of_context(evaluation.groups, longest)):
        advice = ADVICE[alarm.kind].replace("engine.max_tokens", "--max-tokens")
        click.echo(f"alarm: {alarm.statistic}. To try: {advice}", err=True)
    _write(evaluation, out, attempts_out)


def _task(model: str, name: str | None, settings: Sequence[str]) -> tuple[Task, int]:
    """The task and the longest response: a run directory's own, unless another task is named."""
    from scorl.recipe import resolve, resolve_task
    from scorl.recipe.source import load
    from scorl.run.directory import RunDirectory

    run = RunDirectory.of_model(model)
    if name is None and run is None:
        raise UserError("--task is missing; only a run directory knows its own")
    if run is None or name not in (None, load(run.path)["task"]["name"]):
        choice = resolve_task(str(name), settings)
        _check_split(choice, settings)
        return choice.build(), 256
    recipe = resolve(run.path, [f"task.{key.removeprefix('task.')}" for key in settings])
    _check_split(recipe.task, settings)
    return recipe.build_task(), recipe.engine.max_tokens


def _check_split(task: TaskChoice, settings: Sequence[str]) -> None:
    """Refuse `split=train` where nothing is drawn from that split: people mean the one that is measured."""
    named = any(setting.removeprefix("task.").startswith("split=") for setting in settings)
    if named and not (isinstance(task.few_shot, int) and task.few_shot):
        raise UserError(
            f"split={task.split} is where few-shot examples are drawn from, and there are none (few_shot=4); "
            f"the split that is measured is given as --split {task.split}"
        )


def _write(evaluation: Evaluation, out: Path | None, attempts_out: Path | None) -> None:
    from scorl.run.files import response_records

    if out:
        with open_output(out) as handle:
            handle.write(json.dumps(evaluation.summary(), indent=1) + "\n")
    if attempts_out:
        trajectories = [trajectory for group in evaluation.groups for trajectory in group]
        lines = (record for t in trajectories for record in response_records(0, t))
        with open_output(attempts_out) as handle:
            handle.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
