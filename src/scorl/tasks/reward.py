"""Python reward functions as judges, with TRL's signature: `reward_func(prompts, completions, **columns)`.

Prompts and completions are strings; for chat data they are lists of messages, a completion being
`[{"role": "assistant", "content": ...}]`. A function is given what it names of `GIVEN` and of the data's columns, which
come as lists; with `**kwargs` all of it. It may be `async`. It returns one number for each completion, or None where it
has nothing to say. What it raises is the user's mistake, and is told with its file and line.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from scorl.errors import UserError
from scorl.tasks.own_code import import_named, telling_failures
from scorl.trajectory import AttemptText, Problem, Verdict
from scorl.verifiers import Judge
from scorl.verifiers.extract_answer import extract_answer

__all__ = ["RewardFunction", "RewardJudge", "TrainerState", "await_elsewhere", "load_function"]

GIVEN = ("prompts", "completions", "completion_ids", "attempt", "trainer_state", "log_extra", "log_metric")
"""What every function may ask for: TRL's arguments, and `attempt`, which attempt each completion is (from 1)."""
TRLS = frozenset((*GIVEN, "prompt", "completion")) - {"attempt"}
"""Names under which TRL passes no column of the data on."""


@dataclass(frozen=True)
class TrainerState:
    """What TRL's functions read of a trainer's state, as far as it is known here."""

    global_step: int
    """Updates that the policy had seen when it wrote the completions; 0 in evaluations."""


@dataclass(frozen=True)
class RewardFunction:
    """A function that gives rewards, and how it is called."""

    name: str
    """As a recipe names it."""
    function: Callable[..., Any]
    chat: bool
    """Whether it sees chat messages."""

    def __call__(self, pairs: Sequence[tuple[Problem, str]]) -> list[float | None]:
        """The reward of each response, in order.

        Raises:
            UserError: the function fails, or returns something else.
        """
        if not pairs:
            return []
        with telling_failures(f"verifier '{self.name}'"):
            rewards = self.function(**self.arguments(pairs))
            if inspect.isawaitable(rewards):
                rewards = await_elsewhere(rewards)
            if not isinstance(rewards, (str, Mapping)) and isinstance(rewards, Iterable):
                rewards = list(rewards)
        if not isinstance(rewards, list):
            raise UserError(f"verifier '{self.name}' returned {rewards!r:.60}, not a list with a reward for each of "
                            f"{len(pairs)} completions")  # fmt: skip
        if len(rewards) != len(pairs):
            raise UserError(f"verifier '{self.name}' returned {len(rewards)} rewards for {len(pairs)} completions")
        return [self.read(reward, text) for reward, (_, text) in zip(rewards, pairs, strict=True)]

    def arguments(self, pairs: Sequence[tuple[Problem, str]]) -> dict[str, Any]:
        """What the function is called with."""
        problems, texts = [problem for problem, _ in pairs], [text for _, text in pairs]
        attempts = [text if isinstance(text, AttemptText) else None for text in texts]
        given: dict[str, Any] = {
            "prompts": [list(p.prompt) if self.chat else p.prompt[-1]["content"] for p in problems],
            "completions": [
                [{"role": "assistant", "content": str(text)}] if self.chat else str(text) for text in texts
            ],
            "completion_ids": [list(attempt.response.ids) if attempt is not None else None for attempt in attempts],
            "attempt": [attempt.number if attempt is not None else 1 for attempt in attempts],
            "trainer_state": TrainerState(max((a.response.policy for a in attempts if a is not None), default=0)),
            "log_extra": ignore,
            "log_metric": ignore,
            **gather_columns(problems),
        }
        named, takes_all = parameters(self.function)
        return given if takes_all else {name: value for name, value in given.items() if name in named}

    def read(self, reward: Any, text: str) -> float | None:
        """A reward as a finite number, or None."""
        if reward is None:
            return None
        try:
            value = math.nan if isinstance(reward, (str, bytes)) else float(reward)
        except (TypeError, ValueError, OverflowError):
            value = math.nan
        if not math.isfinite(value):
            raise UserError(
                f"verifier '{self.name}' returned {reward!r:.60} for the completion {str(text)!r:.60}; "
                "a reward is a finite number, or None"
            )
        return value

    def check(self, columns: Iterable[str]) -> None:
        """Whether there is everything that the function wants, before anything is sampled.

        Raises:
            UserError: it wants an argument that is neither among `GIVEN` nor a column.
        """
        there = [*GIVEN, *(name for name in columns if name not in TRLS)]
        named, _ = parameters(self.function)
        missing = [name for name, required in named.items() if required and name not in there]
        if missing:
            raise UserError(
                f"verifier '{self.name}' wants {', '.join(missing)}, which the data have no column for; "
                f"there are: {', '.join(there)}"
            )


@dataclass(frozen=True)
class RewardJudge:
    """A judge whose reward is the weighted sum of reward functions' and verifiers'."""

    names: tuple[str, ...]
    parts: tuple[RewardFunction | Judge, ...]
    weights: tuple[float, ...]

    def __call__(self, pairs: Sequence[tuple[Problem, str]]) -> list[Verdict]:
        """The verdicts in order; what a function says None of counts nothing."""
        verdicts = [None if isinstance(part, RewardFunction) else part(pairs) for part in self.parts]
        rewards = [
            part(pairs) if isinstance(part, RewardFunction) else [verdict.reward for verdict in judged or ()]
            for part, judged in zip(self.parts, verdicts, strict=True)
        ]
        answers = next(([verdict.answer for verdict in judged] for judged in verdicts if judged), None)
        return [
            self.sum_up(of_one, (answers and answers[place]) or extract_answer(text) or text.strip())
            for place, ((_, text), *of_one) in enumerate(zip(pairs, *rewards, strict=True))
        ]

    def sum_up(self, rewards: Sequence[float | None], answer: str) -> Verdict:
        """The verdict on one response."""
        value = sum(w * reward for w, reward in zip(self.weights, rewards, strict=True) if reward is not None)
        reason = ""
        if len(rewards) > 1:
            said = ("nothing" if reward is None else f"{reward:g}" for reward in rewards)
            reason = ", ".join(f"{name} {words}" for name, words in zip(self.names, said, strict=True))
        elif rewards[0] is None:
            reason = "the reward function returned None"
        return Verdict(float(value), "correct" if value >= 0.5 else "incorrect", reason, answer)


def load_function(name: str, chat: bool, columns: Iterable[str]) -> RewardFunction:
    """The function that `module:function` or `file.py:function` names, for data with these columns.

    Raises:
        UserError: there is no such module, file or function, or it wants what is not there.
    """
    loaded = RewardFunction(name, import_named("verifier", name, "function"), chat)
    loaded.check(columns)
    return loaded


def gather_columns(problems: Sequence[Problem]) -> dict[str, list[Any]]:
    """The columns of the problems as lists; None where a row lacks one."""
    names = dict.fromkeys(name for problem in problems for name in problem.columns if name not in TRLS)
    return {name: [problem.columns.get(name) for problem in problems] for name in names}


def parameters(function: Callable[..., Any]) -> tuple[dict[str, bool], bool]:
    """The names of a function's parameters and whether each is required; and whether it takes any others."""
    try:
        found = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some of C's have none
        return {}, True
    named = [p for p in found if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    return {p.name: p.default is p.empty for p in named}, any(p.kind is p.VAR_KEYWORD for p in found)


def ignore(*values: Any, **named: Any) -> None:
    """TRL's functions may log; here their reward is all that is kept."""


def await_elsewhere(rewards: Awaitable[Any]) -> Any:
    """What an `async` function comes to; in one loop for all calls, to which its sessions and locks belong."""

    async def wait() -> Any:
        return await rewards

    return asyncio.run_coroutine_threadsafe(wait(), start_loop()).result()


@cache
def start_loop() -> asyncio.AbstractEventLoop:
    """An event loop in a thread of its own: the caller's may have one under way, as in a notebook."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="reward functions", daemon=True).start()
    return loop
