"""What commands that sample from a model have in common: the engine, and whose settings are whose."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from scorl.cli.output import say
from scorl.engines import ENGINES, Engine
from scorl.engines.usage import Metered
from scorl.errors import UserError
from scorl.settings import MOST, MaxTokens, Sampling

if TYPE_CHECKING:
    from scorl.engines.engine import Dialogue
    from scorl.recipe import TaskChoice
    from scorl.recipe.sampler import Sampler
    from scorl.tasks.task import Task
    from scorl.tasks.turns import Turns
    from scorl.trajectory import Problem

__all__ = [
    "COUNT",
    "ENDPOINT",
    "build_engine",
    "check_split",
    "choose_task",
    "describe_sampler",
    "engine_option",
    "max_tokens_option",
    "resolve_limits",
    "resolve_sampler",
    "resolve_wording",
    "say_usage",
    "split_settings",
    "warn_of_context",
]

COUNT = click.IntRange(1, MOST)
"""Of attempts, samples, problems or tokens, as a recipe bounds them."""
Command = TypeVar("Command", bound=Callable[..., Any])

ENDPOINT = re.compile(r"openai:(?P<model>.+?)(?:@(?P<url>https?://.+))?")
"""A model that is named by where it is asked."""
NO_SCHEME = re.compile(r".*@(?P<address>localhost\b.*|[\w.-]+:\d+.*)")

engine_option = click.option(
    "--engine",
    type=click.Choice(list(ENGINES)),
    default="auto",
    show_default=True,
    help="What samples; its settings are given as in engine.batch_size=64. auto: vllm on a GPU where it is installed, "
    "else torch.",
)


def max_tokens_option(default: int) -> Callable[[Command], Command]:
    """`--max-tokens`: one number, or one for each attempt; where it is not given, None."""
    return click.option(
        "--max-tokens",
        type=_read_limits,
        metavar="N[,N]...",
        help=f"Longest response; 64,256: of attempt 1, and of later ones.  [default: the run's own, else {default}]",
    )


def _read_limits(text: str) -> MaxTokens:
    try:
        limits = tuple(int(part) for part in text.split(","))
        return Sampling(max_tokens=limits[0] if len(limits) == 1 else limits).max_tokens
    except (ValueError, UserError):
        raise click.BadParameter(f"'{text}' is no whole number from 1, and no list of them as in 64,256") from None


def split_settings(settings: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Settings of the model and the engine, which begin with `model.` or `engine.`, and those of the task."""
    of_sampler = [setting for setting in settings if setting.startswith(("model.", "engine."))]
    return of_sampler, [setting for setting in settings if setting not in of_sampler]


def resolve_sampler(model: str, engine: str, settings: Sequence[str]) -> Sampler:
    """The model and the engine; a model that a run trained is asked as there, and openai:MODEL@URL at its endpoint.

    Raises:
        UserError: the run has no checkpoint yet, or something is said of an endpoint's model that is not here.
    """
    from scorl import recipe
    from scorl.run.directory import RunDirectory

    if ENDPOINT.fullmatch(model) or ENGINES[engine].is_endpoint:
        return recipe.resolve_sampler(*_endpoint(model, engine, settings))
    run = RunDirectory.of_model(model)
    if run is None:
        return recipe.resolve_sampler(model, engine, settings)
    trained, has_stages = recipe.resolve_trained(run.path)
    if not has_stages:  # it measures the model that it starts from
        return recipe.resolve_sampler(trained.path, engine, settings, trained=trained, is_saved=False)
    if not run.saved_steps():
        raise UserError(f"{run.path}: this run has saved no checkpoint yet: scorl train {run.path} --resume")
    return recipe.resolve_sampler(model, engine, settings, trained=trained)


def _endpoint(model: str, engine: str, settings: Sequence[str]) -> tuple[str, str, list[str]]:
    """What `recipe.resolve_sampler` takes, for a model that is elsewhere."""
    parts = ENDPOINT.fullmatch(model)
    if parts and engine not in ("auto", "openai"):
        raise UserError(f"{model} is asked at its endpoint, and not sampled by --engine {engine}: leave that out")
    if parts and not parts["url"] and (address := NO_SCHEME.fullmatch(parts["model"])):
        raise UserError(f"{model}: write the URL whole, as in @http://{address['address']}")
    if of_model := [setting for setting in settings if setting.startswith("model.")]:
        raise UserError(
            f"{of_model[0]}: the model is elsewhere, and so is its chat template; fields of a request are given as in "
            "engine.extra_body.chat_template_kwargs.enable_thinking=false"
        )
    url = [f"engine.base_url={parts['url']}"] if parts and parts["url"] else []
    return parts["model"] if parts else model, "openai", [*url, *settings]


def build_engine(sampler: Sampler) -> Engine:
    """The engine; where answers are kept because they are paid for, it is said where."""
    engine = sampler.build()
    if isinstance(engine, Metered):
        say(engine.describe())
    return engine


def describe_sampler(model: str, sampler: Sampler) -> dict[str, Any]:
    """What decides the draws besides the request: the model as it is read, the engine, and of a run its checkpoint."""
    from scorl.run.directory import RunDirectory

    run = RunDirectory.of_model(model)
    engine = {key: value for key, value in asdict(sampler.engine.settings).items() if key != "batch_size"}
    steps = run.saved_steps()[-1:] if run else []
    return {"model": asdict(sampler.model), "engine": {"name": sampler.engine.name, **engine}, "checkpoint": steps}


def say_usage(engine: Engine) -> None:
    """What the answers took that are paid for."""
    if isinstance(engine, Metered):
        click.echo(str(engine.usage), err=True)


def resolve_wording(
    model: str | None, task: str | None, settings: Sequence[str] = ()
) -> tuple[TaskChoice, Turns, MaxTokens | None]:
    """In whose words a question of the user's own is asked and corrected, and the longest response where a run says so.

    Args:
        model: a run asks as it was trained, unless another task is named.
        task: by name; None: the run's, else none, and questions are asked as they are.
        settings: of the task.
    """
    from scorl.recipe import TaskChoice, resolve, resolve_task
    from scorl.run.directory import RunDirectory
    from scorl.tasks.turns import Correction

    run = RunDirectory.of_model(model) if model else None
    if run is not None and task in (None, _task_of(run.path)):
        recipe = resolve(run.path, settings)
        return recipe.task, recipe.turns, recipe.engine.max_tokens
    if task is not None:
        return resolve_task(task, settings), Correction(), None
    if settings:
        raise UserError(f"{settings[0]}: of which task? --task is missing")
    return TaskChoice("question"), Correction(), None


def choose_task(model: str, name: str | None, settings: Sequence[str]) -> tuple[Task, MaxTokens]:
    """The task and the longest response: a run directory's own, unless another task is named."""
    from scorl.recipe import resolve, resolve_task
    from scorl.run.directory import RunDirectory

    run = RunDirectory.of_model(model)
    if name is None and run is None:
        raise UserError("--task is missing; only a run directory knows its own")
    if run is None or name not in (None, _task_of(run.path)):
        choice = resolve_task(str(name), settings)
        check_split(choice, settings)
        return choice.build(), 256
    recipe = resolve(run.path, [f"task.{key.removeprefix('task.')}" for key in settings])
    check_split(recipe.task, settings)
    return recipe.build_task(), recipe.engine.max_tokens


def _task_of(run: Path) -> Any:
    """The name of a run's task, if its recipe is whole."""
    from scorl.recipe.source import load

    task = load(run).get("task")
    return task.get("name") if isinstance(task, dict) else None


def check_split(task: TaskChoice, settings: Sequence[str]) -> None:
    """Refuse `split=train` where nothing is drawn from that split: people mean the one that is measured."""
    named = any(setting.removeprefix("task.").startswith("split=") for setting in settings)
    if named and not (isinstance(task.few_shot, int) and task.few_shot):
        raise UserError(
            f"split={task.split} is where few-shot examples are drawn from, and there are none (few_shot=4); "
            f"the split that is measured is given as --split {task.split}"
        )


def resolve_limits(given: MaxTokens | None, attempts: int, default: MaxTokens) -> MaxTokens:
    """The longest responses: those of --max-tokens, else the default.

    Raises:
        UserError: more are given than there are attempts.
    """
    if isinstance(given, tuple) and len(given) > attempts:
        right = ",".join(map(str, given[:attempts]))
        raise UserError(f"--max-tokens: {len(given)} limits, and --attempts {attempts}; {right} would be right")
    return given or default


def warn_of_context(
    sampler: Sampler, chat: Dialogue, task: Task, problems: Sequence[Problem], attempts: int, max_tokens: MaxTokens
) -> None:
    """See `check_context`; nothing is known of what an endpoint takes."""
    from scorl.model.chat import Chat
    from scorl.model.context import check_context, usable_positions
    from scorl.model.loading import load_config

    if not isinstance(chat, Chat):
        return
    positions = usable_positions(sampler.engine.settings, load_config(sampler.model.path))
    if warning := check_context(chat, problems, task.turns(attempts), Sampling(max_tokens=max_tokens), positions):
        warnings.warn(warning, stacklevel=2)
