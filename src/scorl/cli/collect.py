"""`scorl collect-repairs`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from scorl.cli.output import check_writable, count_problems, open_output, quiet, say
from scorl.cli.paths import UserPath
from scorl.cli.sampling import (
    COUNT,
    build_engine,
    engine_option,
    resolve_sampler,
    say_usage,
    split_settings,
    warn_of_context,
)

__all__ = ["collect_repairs"]


@click.command("collect-repairs")
@click.argument("model")
@click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...")
@engine_option
@click.option("--split", default="test", show_default=True)
@click.option("--samples", type=COUNT, default=4, show_default=True, help="Programs per problem.")
@click.option("--temperature", type=click.FloatRange(min=0), default=1.0, show_default=True, help="0 is greedy.")
@click.option("--max-tokens", type=COUNT, default=512, show_default=True, help="Longest response.")
@click.option("--limit", type=COUNT, help="Only the first so many problems.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--out", type=UserPath(dir_okay=False), required=True, help="Write the programs here.")
def collect_repairs(
    model: str,
    settings: tuple[str, ...],
    engine: str,
    split: str,
    samples: int,
    temperature: float,
    max_tokens: int,
    limit: int | None,
    seed: int,
    out: Path,
) -> None:
    """Let MODEL write programs for MBPP and keep the wrong ones, for the task mbpp-repair to be repaired.

    Settings of the task mbpp are given as in path=mbpp.jsonl, the engine's as in engine.batch_size=64, the model's as
    in model.dtype=bfloat16. OUT gets one JSON object a line: task_id, program, verdict, reason. Another model then
    repairs them: scorl evaluate MODEL --task mbpp-repair attempts=OUT.
    """
    from scorl.recipe import resolve_task

    check_writable(out)
    of_sampler, of_task = split_settings(settings)
    sampler = resolve_sampler(model, engine, of_sampler)
    task = resolve_task("mbpp", of_task).build()
    task.split(split)
    sampler.check()

    from scorl.evaluation import evaluate
    from scorl.settings import EvaluationSettings
    from scorl.tasks.repairs import collect_wrong_programs

    quiet()
    loaded = build_engine(sampler)
    warn_of_context(sampler, loaded.chat, task, task.split(split).take(limit), 1, max_tokens)
    evaluation = evaluate(
        loaded,
        task,
        EvaluationSettings(problems=limit, temperature=temperature, samples=samples, split=split),
        model=model,
        attempts=1,
        max_tokens=max_tokens,
        seed=seed,
        progress=count_problems(),
    )
    say_usage(loaded)
    lines, fates = collect_wrong_programs(evaluation.groups)
    with open_output(out) as handle:
        handle.writelines(json.dumps(line, ensure_ascii=handle.isatty()) + "\n" for line in lines)
    problems = len({line["task_id"] for line in lines})
    counts = ", ".join(f"{fates[fate]} {fate}" for fate in ("kept", "right", "without a program", "repeated"))
    say(f"{out}: {len(lines)} wrong programs for {problems} of {len(evaluation.groups)} problems ({counts})")
