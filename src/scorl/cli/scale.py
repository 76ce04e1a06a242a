"""`scorl scale`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scorl.cli.output import check_writable, count_problems, print_grid, quiet
from scorl.cli.paths import UserPath
from scorl.cli.sampling import (
    COUNT,
    build_engine,
    choose_task,
    describe_sampler,
    engine_option,
    max_tokens_option,
    resolve_limits,
    resolve_sampler,
    say_usage,
    split_settings,
    warn_of_context,
)
from scorl.errors import UserError
from scorl.settings import MaxTokens, Sampling

if TYPE_CHECKING:
    from scorl.engines import Engine
    from scorl.recipe.sampler import Sampler
    from scorl.tasks.task import Task
    from scorl.trajectory import Group, Problem

__all__ = ["scale"]

RESULT, ATTEMPTS = "scale.json", "attempts.jsonl"
LIMIT = 128
"""The largest budget; with more samples the exact mean over all choices would take long."""


@click.command()
@click.argument("model")
@click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--task", "task_name", help="The task, or file.py:Class; a run knows its own, its settings and wording.")
@engine_option
@click.option("--split", default="test", show_default=True)
@click.option("--budget", type=click.IntRange(2, LIMIT), default=32, show_default=True, help="Responses a problem.")
@click.option("--attempts", type=click.IntRange(2, 16), default=2, show_default=True, help="The deepest chain.")
@click.option("--temperature", type=click.FloatRange(min=0, min_open=True), default=0.7, show_default=True)
@max_tokens_option(256)
@click.option("--limit", type=COUNT, help="Only the first so many problems.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "--out",
    type=UserPath(file_okay=False),
    required=True,
    help=f"A folder for {RESULT} and {ATTEMPTS}; interrupted, the same command goes on there.",
)
def scale(
    model: str,
    settings: tuple[str, ...],
    task_name: str | None,
    engine: str,
    split: str,
    budget: int,
    attempts: int,
    temperature: float,
    max_tokens: MaxTokens | None,
    limit: int | None,
    seed: int,
    out: Path,
) -> None:
    """What is better at the same cost: more samples, or fewer and each corrected?

    Of MODEL (as in `scorl evaluate`) a majority vote over K parallel samples is set against one over K/2 samples that
    were corrected once, for K of 1, 2, 4, ... responses, and with --attempts against deeper chains: section 6 of the
    paper. One set of samples serves all: BUDGET of them a problem, each with all its attempts. `scorl report OUT` draws
    it.
    """
    of_sampler, of_task = split_settings(settings)
    sampler = resolve_sampler(model, engine, of_sampler)
    task, own_max_tokens = choose_task(model, task_name, of_task)
    problems, longest = task.split(split).take(limit), resolve_limits(max_tokens, attempts, own_max_tokens)
    _check(task, attempts, budget)
    sampler.check()

    from scorl.evaluation import hash_problems
    from scorl.inference.scaling import measure_scaling
    from scorl.report import tabulate_scaling
    from scorl.run.files import write_whole

    about = {
        "model": model,
        "task": task.name,
        "task_settings": dict(task.settings),
        "messages": [turn.message for turn in task.turns(attempts)],
        "sampler": describe_sampler(model, sampler),
        "split": split,
        "problems_hash": hash_problems(problems),
        "samples": budget,
        "attempts": attempts,
        "temperature": temperature,
        "max_tokens": list(longest) if isinstance(longest, tuple) else longest,
        "seed": seed,
    }
    _begin(out, about)
    groups = _sample(sampler, task, problems, about, out / ATTEMPTS)
    summary = about | measure_scaling(groups, task.judge).summary()
    write_whole(out / RESULT, json.dumps(summary, indent=1) + "\n")
    print_grid(tabulate_scaling(summary))


def _sample(
    sampler: Sampler, task: Task, problems: Sequence[Problem], about: Mapping[str, Any], file: Path
) -> list[Group]:
    """The judged samples, those that stand in the file taken from it."""
    from scorl.rollout import Draws
    from scorl.run.sampled import sample_to_file
    from scorl.seeds import derive

    def draw_seed(problem: Problem, sample: int, place: int) -> int:
        return derive(about["seed"], "scale", problem.id, sample, place)

    built: list[Engine] = []

    def build() -> Engine:
        quiet()
        engine = build_engine(sampler)
        built.append(engine)
        warn_of_context(sampler, engine.chat, task, problems, about["attempts"], about["max_tokens"])
        return engine

    draws = Draws(draw_seed, about["samples"], Sampling(about["temperature"], about["max_tokens"]))
    groups = sample_to_file(file, build, task, problems, task.turns(about["attempts"]), draws, count_problems())
    for engine in built:
        say_usage(engine)
    return groups


def _check(task: Task, attempts: int, budget: int) -> None:
    """Whether every response of a chain is an attempt, and one chain can be paid for.

    Raises:
        UserError: one is none, or it cannot.
    """
    if any(turn.role != "attempt" for turn in task.turns(attempts)):
        raise UserError("scale counts attempts: leave turns.name at correction")
    if attempts > budget:
        raise UserError(f"--attempts {attempts}: a budget of {budget} responses has no room for such a chain")


def _begin(out: Path, about: dict[str, Any]) -> None:
    """Make the folder, or see that what stands there was asked in the same way.

    Raises:
        UserError: it was not, or the folder cannot be made.
    """
    from scorl.run.files import write_whole

    result = out / RESULT
    if result.exists():
        try:
            before = json.loads(result.read_bytes())
            differing = [key for key in about if before[key] != json.loads(json.dumps(about[key], default=str))]
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{result} was not written by `scorl scale`: take another folder for --out") from None
        if differing:
            key = differing[0]
            raise UserError(
                f"{out} holds samples with {key}={before[key]!r}, and {about[key]!r} is asked for: take another --out"
            )
        return
    if (out / ATTEMPTS).exists():
        raise UserError(f"{out} holds attempts of something else: take another folder for --out")
    if not out.is_dir():
        check_writable(out)
        try:
            out.mkdir()
        except OSError as error:
            raise UserError(f"cannot write {out}: {error.strerror}") from None
    write_whole(result, json.dumps(about | {"arms": {}}, indent=1, default=str) + "\n")
