"""What the `verifiers` package calls an environment, in its two forms, as prompts and what scores an answer to them.

The older form (gone from verifiers 0.3.1 on) is a module with `load_environment`, which returns a `SingleTurnEnv`; the
newer one exports a `Taskset`, whose tasks score a trace.
"""

from __future__ import annotations

import importlib
import inspect
import itertools
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from types import ModuleType
from typing import Any, NoReturn

from pydantic import ValidationError

from scorl.errors import UserError
from scorl.tasks.own_code import telling_failures
from scorl.trajectory import Message, user

__all__ = ["Rollout", "read_environment"]

ENDLESS = 1000
"""Problems that are taken from a taskset without end."""


@dataclass(frozen=True)
class Rollout:
    """A prompt, and what scores an answer to it."""

    prompt: tuple[Message, ...]
    answer: Any
    """What the environment compares with, for people; None: it does not say."""
    score: Callable[[str], Awaitable[float]]


Read = tuple[list[Rollout], list[Rollout] | None]
"""All problems, and those for evaluation if there are any of their own."""


def read_environment(name: str, args: Mapping[str, Any], size: int | None) -> Read:
    """What an installed environment asks.

    Raises:
        UserError: verifiers is not installed, nor such an environment, or it wants what scorl has not.
    """
    if find_spec("verifiers") is None:
        raise UserError("task 'verifiers' needs the package: pip install 'scorl[verifiers]'")
    what = f"environment '{name}'"
    with telling_failures(what):
        module = find_module(name, what)
        older = hasattr(module, "load_environment")
        train, test = read_single_turn(module, args, what) if older else read_taskset(name, args, size, what)
    if not train:
        raise UserError(f"{what}: has no problems")
    return train[:size], test and test[:size]


def find_module(name: str, what: str) -> ModuleType:
    """The module of an environment, whose name on the hub may have an owner and a version."""
    module = name.rsplit("/", 1)[-1].split("@", 1)[0].replace("-", "_").lower()
    built_in = f"verifiers.v1.tasksets.{module}"
    try:
        return importlib.import_module(
            built_in if find_spec("verifiers.v1.tasksets") and find_spec(built_in) else module
        )
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise UserError(f"task.environment: '{name}' is not installed (there is no module {module})") from error


def read_single_turn(module: ModuleType, args: Mapping[str, Any], what: str) -> Read:
    """The older form."""
    package = importlib.import_module("verifiers")
    if not hasattr(package, "SingleTurnEnv"):
        raise UserError(
            f"{what}: has load_environment, the older form of environments, which this verifiers has no more: "
            "pip install 'verifiers<0.2'"
        )
    environment = module.load_environment(**args)
    if not isinstance(environment, package.SingleTurnEnv):
        refuse(what, f"is a {type(environment).__name__}, which takes more than one turn")
    if getattr(environment, "requires_group_rollouts", False):
        refuse(what, "has rewards of a whole group")
    if getattr(environment, "oai_tools", None) or getattr(environment, "tool_defs", None):
        refuse(what, "has tools")
    own = any(getattr(environment, name, None) is not None for name in ("eval_dataset", "eval_dataset_source"))
    return (
        [read_row(row, environment, what) for row in environment.get_dataset()],
        [read_row(row, environment, what) for row in environment.get_eval_dataset()] if own else None,
    )


def read_row(row: Mapping[str, Any], environment: Any, what: str) -> Rollout:
    """A row of the older form's data (`prompt`, `answer`, `info`)."""
    prompt = row["prompt"]
    messages = (user(prompt),) if isinstance(prompt, str) else read_messages(prompt, what)
    return Rollout(messages, row.get("answer") or None, partial(score_row, environment, dict(row), messages))


async def score_row(environment: Any, row: dict[str, Any], prompt: Sequence[Message], text: str) -> float:
    """The rubric's reward; where one of its functions raises, the rubric itself says 0."""
    state = importlib.import_module("verifiers.types").State(input=row)
    state |= {"answer": row.get("answer") or "", "info": row.get("info") or {}, "task": row.get("task") or "default"}
    state["prompt"] = own_messages(prompt)
    state["completion"] = own_messages([Message(role="assistant", content=text)])
    state |= {"trajectory": [], "is_completed": True, "is_truncated": False, "error": None}
    await environment.rubric.score_rollout(state)
    return finite(state["reward"])


def own_messages(messages: Sequence[Message]) -> Any:
    """Messages of the package's own kind, which became classes within 0.1; mappings before."""
    helpers = importlib.import_module("verifiers.utils.message_utils")
    normalize = getattr(helpers, "normalize_messages", None)
    plain = [dict(message) for message in messages]
    return plain if normalize is None else normalize(plain, field_name="prompt")


def read_taskset(name: str, args: Mapping[str, Any], size: int | None, what: str) -> Read:
    """The newer form."""
    loaders = importlib.import_module("verifiers.v1.utils.loaders")
    package = importlib.import_module("verifiers.v1")
    if loaders.environment_class(name) is not package.SingleAgentEnv:
        refuse(what, "has an environment class of its own, which asks several agents")
    try:
        config = loaders.taskset_config_type(name).model_validate({**args, "id": name})
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"task.args.{'.'.join(map(str, first['loc']))}: {what} says: {first['msg']}") from error
    taskset = loaders.load_taskset(config)
    if taskset.toolsets(config):
        refuse(what, "has tools")
    tasks = itertools.islice(taskset, size or (ENDLESS if taskset.INFINITE else None))
    return [read_task(task, package, what) for task in tasks], None


def read_task(task: Any, package: ModuleType, what: str) -> Rollout:
    """A task of the newer form."""
    kind, data = type(task), task.data
    hooks = [name for name in ("setup", "finalize") if getattr(kind, name) is not getattr(package.Task, name)]
    if task.NEEDS_CONTAINER or data.image or hooks or any(map(needs_runtime, task.hooks("reward"))):
        refuse(what, "runs in a container or another runtime")
    if kind.toolsets(task.config):
        refuse(what, "has tools")
    if data.prompt is None:
        refuse(what, "leaves the first message to a simulated user")
    if not task.hooks("reward") and not task.plugged_judges():
        refuse(what, "has no reward")
    asked = (user(data.prompt),) if isinstance(data.prompt, str) else read_messages(data.prompt, what)
    system = (Message(role="system", content=data.system_prompt),) if data.system_prompt else ()
    return Rollout((*system, *asked), getattr(data, "answer", None), partial(score_task, task, (*system, *asked)))


def needs_runtime(reward: Callable[..., Any]) -> bool:
    """Whether a reward looks at what an agent has left behind."""
    parameter = inspect.signature(reward).parameters.get("runtime")
    return parameter is not None and parameter.default is parameter.empty


async def score_task(task: Any, prompt: Sequence[Message], text: str) -> float:
    """The weighted sum of a task's rewards and judges."""
    package = importlib.import_module("verifiers.v1")
    graph, states = (importlib.import_module(f"verifiers.v1.{name}") for name in ("graph", "state"))
    kinds = {"system": package.SystemMessage, "user": package.UserMessage, "assistant": package.AssistantMessage}
    said = [*prompt, Message(role="assistant", content=text)]
    nodes = [
        graph.MessageNode(
            parent=place - 1 if place else None,
            message=kinds[message["role"]](content=message["content"]),
            sampled=place == len(prompt),
        )
        for place, message in enumerate(said)
    ]
    asked = package.TraceTask(type=type(task).__name__, data=task.data, key=task.key, hash=task.hash)
    agent = package.AgentInfo(config=package.AgentConfig())
    trace = package.Trace(task=asked, agent=agent, state=states.state_cls(type(task))(), nodes=nodes, ok=True)
    await task.score(trace)
    return finite(trace.reward)


def read_messages(messages: Iterable[Any], what: str) -> tuple[Message, ...]:
    """An environment's messages, mappings or objects, as scorl has them."""
    read = []
    for message in messages:
        values = message if isinstance(message, Mapping) else vars(message)
        if not isinstance(values.get("content"), str):
            refuse(what, f"has messages that are no text: {values.get('content')!r:.60}")
        read.append(Message(role=str(values["role"]), content=values["content"]))
    if not read or read[-1]["role"] != "user":
        refuse(what, "has a prompt that does not end with a message of the user")
    return tuple(read)


def finite(reward: Any) -> float:
    """A reward as a number.

    Raises:
        ValueError: it is none, or not a finite one.
    """
    value = float(reward)
    if not math.isfinite(value):
        raise ValueError(f"the reward is {value}")
    return value


def refuse(what: str, reason: str) -> NoReturn:
    """Say what an environment has that scorl has not."""
    raise UserError(f"{what}: {reason}; scorl asks one model for one answer, and then for its correction")
