"""`scorl evaluate`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scorl.cli.output import check_writable, count_problems, open_output, print_grid, quiet, say
from scorl.cli.paths import UserPath
from scorl.cli.sampling import (
    COUNT,
    build_engine,
    check_split,
    choose_task,
    engine_option,
    max_tokens_option,
    resolve_limits,
    resolve_sampler,
    say_usage,
    split_settings,
    warn_of_context,
)
from scorl.errors import UserError
from scorl.settings import EvaluationSettings, MaxTokens, Sampling
from scorl.text_files import as_path

if TYPE_CHECKING:
    from scorl.evaluation import Evaluation
    from scorl.recipe.sampler import Sampler
    from scorl.tasks.task import Task

__all__ = ["evaluate"]

FILE = UserPath(dir_okay=False)


@click.command()
@click.argument("model")
@click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--task", "task_name", help="The task, or file.py:Class; a run knows its own, its settings and wording.")
@engine_option
@click.option("--split", default="test", show_default=True)
@click.option("--attempts", type=COUNT, default=2, show_default=True)
@click.option("--samples", type=COUNT, default=1, show_default=True, help="Samples per problem.")
@click.option("--temperature", type=click.FloatRange(min=0), default=0.0, show_default=True, help="0 is greedy.")
@max_tokens_option(256)
@click.option("--limit", type=COUNT, help="Only the first so many problems.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--wordings", metavar="NAMES", help="all, some of the panel's with commas between, or FILE.yaml.")
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
    max_tokens: MaxTokens | None,
    limit: int | None,
    seed: int,
    wordings: str | None,
    out: Path | None,
    attempts_out: Path | None,
) -> None:
    """Measure self-correction of MODEL: a folder, a hub name, scorl:NAME, pypi:PACKAGE, a run directory, or
    openai:MODEL@URL, a model behind any endpoint that speaks OpenAI's protocol.

    A JSONL file of answers that exist already needs no model: lines of {"id", "attempts": [...], "model", "wording",
    "sampling"}, of which the first two are needed.

    --wordings asks for the second attempt in several wordings, all after the same first attempts: neutral (the task's
    own), verify_first, suggestive, again, and placebo, which asks the problem once more without a hint.

    Settings are given as a recipe has them: the task's as in path=data/svamp, the engine's as in
    engine.batch_size=64, the model's as in model.dtype=bfloat16. The engine vllm loads the model in its own server,
    so that it is in memory once.
    """
    for path in (out, attempts_out):
        check_writable(path)
    if wordings is not None and attempts == 1:
        raise UserError("--wordings are of second attempts: take --attempts 2 or more")
    if model.endswith(".jsonl"):
        _refuse_sampling()
        evaluations = _of_answers(as_path(model), task_name, settings, split)
    else:
        of_sampler, of_task = split_settings(settings)
        sampler = resolve_sampler(model, engine, of_sampler)
        task, own_max_tokens = choose_task(model, task_name, of_task)
        task.split(split)
        sampler.check()
        measured = EvaluationSettings(problems=limit, temperature=temperature, samples=samples, split=split)
        longest = resolve_limits(max_tokens, attempts, own_max_tokens)
        evaluations = _sample(sampler, task, measured, model, attempts, longest, seed, wordings)
    _show(evaluations)
    _write(evaluations, out, attempts_out)


def _refuse_sampling() -> None:
    """Answers that exist are not sampled: an option of sampling is a mistake."""
    context = click.get_current_context()
    for name in ("engine", "attempts", "samples", "temperature", "max_tokens", "limit", "seed", "wordings"):
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            option = name.replace("_", "-")
            raise UserError(f"--{option} is of sampling, and these answers exist already: leave it out")


def _of_answers(file: Path, task_name: str | None, settings: Sequence[str], split: str) -> list[Evaluation]:
    """The evaluations of a file of answers."""
    from scorl.answers import evaluate_answers
    from scorl.recipe import resolve_task

    if not file.is_file():
        raise UserError(f"{file}: no such file of answers")
    if task_name is None:
        raise UserError("--task is missing: it judges the answers")
    choice = resolve_task(task_name, settings)
    check_split(choice, settings)
    task = choice.build()
    evaluations = evaluate_answers(file, task, split)
    there = len(task.split(split).take(None))
    for evaluation in evaluations:
        if (answered := len(evaluation.groups)) < there:
            name = " ".join(filter(None, (evaluation.model, evaluation.wording)))
            say(f"{name}: answers to {answered} of the {there} problems of '{split}'")
    return evaluations


def _sample(
    sampler: Sampler,
    task: Task,
    settings: EvaluationSettings,
    model: str,
    attempts: int,
    max_tokens: MaxTokens,
    seed: int,
    wordings: str | None,
) -> list[Evaluation]:
    """The evaluation of a model, or those of each wording."""
    from scorl.evaluation import evaluate as measure
    from scorl.panel import evaluate_panel
    from scorl.tasks.wordings import choose_wordings

    chosen = choose_wordings(task, wordings) if wordings else {}
    quiet()
    loaded = build_engine(sampler)
    warn_of_context(
        sampler, loaded.chat, task, task.split(settings.split).take(settings.problems), attempts, max_tokens
    )
    how: dict[str, Any] = {"model": model, "attempts": attempts, "max_tokens": max_tokens, "seed": seed}
    if chosen:
        panel = evaluate_panel(loaded, task, chosen, settings, progress=count_problems(), **how)
        evaluations = list(panel.evaluations.values())
    else:
        evaluations = [measure(loaded, task, settings, progress=count_problems(), **how)]
    say_usage(loaded)
    return evaluations


def _show(evaluations: Sequence[Evaluation]) -> None:
    """A table for each evaluation, or one for each model that was asked in several wordings; and an alarm."""
    from scorl.metrics import ADVICE, find_crowded, share_out_of_context
    from scorl.panel import panels_of
    from scorl.report import tabulate_evaluation, tabulate_panel

    for panel in panels_of(evaluations):
        one, *others = panel.evaluations.values()
        print_grid(tabulate_panel(panel) if others else tabulate_evaluation(one))
    for evaluation in evaluations:
        if evaluation.max_tokens and (
            alarm := find_crowded(share_out_of_context(evaluation.groups, Sampling(max_tokens=evaluation.max_tokens)))
        ):
            advice = ADVICE[alarm.kind].replace("engine.max_tokens", "--max-tokens")
            name = f" ({evaluation.wording})" if evaluation.wording else ""
            say(f"alarm{name}: {alarm.statistic}. To try: {advice}")


def _write(evaluations: Sequence[Evaluation], out: Path | None, attempts_out: Path | None) -> None:
    """One evaluation as its summary, several as a list of panels; and every attempt."""
    from scorl.panel import panels_of
    from scorl.run.files import response_records

    if out:
        summaries = [panel.summary() for panel in panels_of(evaluations)]
        with open_output(out) as handle:
            handle.write(json.dumps(summaries[0] if len(summaries) == 1 else summaries, indent=1) + "\n")
    if attempts_out:
        several = len({evaluation.model for evaluation in evaluations}) > 1
        with open_output(attempts_out) as handle:
            for evaluation in evaluations:
                names = {"wording": evaluation.wording} if evaluation.wording else {}
                names |= {"model": evaluation.model} if several else {}
                for trajectory in (trajectory for group in evaluation.groups for trajectory in group):
                    lines = (record | names for record in response_records(0, trajectory))
                    handle.writelines(json.dumps(line, ensure_ascii=handle.isatty()) + "\n" for line in lines)
