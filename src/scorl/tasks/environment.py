"""`verifiers`: environments of one turn as Prime Intellect's `verifiers` package has them, old and new.

An environment is an installed package, from its Environments Hub for instance. Its data and its rewards are taken, and
scorl asks and corrects: tools, containers and simulated users are refused.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from annotated_types import Ge, Interval

from scorl.errors import UserError
from scorl.tasks.data import divide, fill_prompt, hash_text, named_apart
from scorl.tasks.environment_api import Rollout, read_environment
from scorl.tasks.files import CORRECTION
from scorl.tasks.own_code import tell_failure
from scorl.tasks.reward import await_elsewhere
from scorl.tasks.task import Task
from scorl.trajectory import Problem, Verdict
from scorl.verifiers.extract_answer import extract_answer

__all__ = ["Verifiers", "verifiers"]

ENDING = 8
"""Rewards that must have failed, with none that has not, before the task ends the command."""
AT_ONCE = 64
"""Answers that are scored at a time: a reward may ask a judge over the network."""


@dataclass(frozen=True)
class Verifiers:
    """Settings of `verifiers`."""

    environment: str
    """The environment, an installed package: gsm8k, or owner/name as on the Environments Hub."""
    args: dict[str, Any] = field(default_factory=dict)
    """Its own settings: the arguments of `load_environment`, or the keys of its taskset's config."""
    test_args: dict[str, Any] | None = None
    """The settings with which it gives test problems, as in {split: test}; None: its evaluation data, else a part."""
    test_fraction: Annotated[float, Interval(gt=0, lt=1)] = 0.1
    """Without test problems: the part of the problems, picked by a hash of their questions, that is held out."""
    size: Annotated[int, Ge(1)] | None = None
    """So many problems at most; None: all, and 1,000 of a taskset without end."""
    prompt: str = "{question}"
    """The last message before an answer; `{question}` is filled in with the environment's own."""
    correction: str = CORRECTION
    """The message between two attempts."""


def verifiers(settings: Verifiers) -> Task:
    """The task `verifiers`, with the splits `train`, `test` and `all`.

    Raises:
        UserError: there is no such environment, it does not load, or it wants more than one answer to one prompt.
    """
    train, test = read_environment(settings.environment, settings.args, settings.size)
    if settings.test_args is not None:
        test, _ = read_environment(settings.environment, settings.test_args, settings.size)
    rollouts = [*train, *(test or ())]
    problems = named_apart([make_problem(rollout, settings) for rollout in rollouts])
    judge = EnvironmentJudge({problem.id: one for problem, one in zip(problems, rollouts, strict=True)})
    every, held_out = problems[: len(train)], problems[len(train) :] if test else None
    what = f"environment '{settings.environment}'"
    splits = divide("verifiers", every, held_out, settings.test_fraction, what, "test_args={...}")
    return Task("verifiers", splits, settings.correction, judge)


def make_problem(rollout: Rollout, settings: Verifiers) -> Problem:
    """A prompt of the environment as a problem."""
    *before, asked = rollout.prompt
    name = hash_text(str(rollout.prompt) + str(rollout.answer))
    prompt = (*before, *fill_prompt(settings.prompt, asked["content"]))
    return Problem(name, prompt, rollout.answer, split_key=json.dumps(rollout.prompt))


@dataclass
class Record:
    """What became of the rewards so far, in this process."""

    failed: int = 0
    worked: int = 0


@dataclass(frozen=True)
class EnvironmentJudge:
    """Scores answers by the environment's own rewards."""

    rollouts: Mapping[str, Rollout]
    """By the id of their problem."""
    record: Record = field(default_factory=Record, compare=False)

    def __call__(self, pairs: Sequence[tuple[Problem, str]]) -> list[Verdict]:
        """The verdicts in order; a reward that raises gives 0, as it does in the package.

        Raises:
            UserError: it has raised `ENDING` times, and never has it not.
        """
        rewards = await_elsewhere(self.score_all(pairs))
        failures = [reward for reward in rewards if isinstance(reward, BaseException)]
        self.record.failed += len(failures)
        self.record.worked += len(rewards) - len(failures)
        if failures and not self.record.worked and self.record.failed >= ENDING:
            raise UserError(
                tell_failure(f"task 'verifiers': all of {self.record.failed} rewards failed, one", failures[0])
            )
        return [make_verdict(reward, text) for reward, (_, text) in zip(rewards, pairs, strict=True)]

    async def score_all(self, pairs: Sequence[tuple[Problem, str]]) -> list[float | BaseException]:
        """The rewards, or what was raised."""
        gate = asyncio.Semaphore(AT_ONCE)

        async def score(problem: Problem, text: str) -> float:
            async with gate:
                return await self.rollouts[problem.id].score(str(text))

        return await asyncio.gather(*(score(*pair) for pair in pairs), return_exceptions=True)


def make_verdict(reward: float | BaseException, text: str) -> Verdict:
    """The verdict on one answer."""
    answer = extract_answer(text) or text.strip()
    if isinstance(reward, BaseException):
        return Verdict(0.0, "error", f"{type(reward).__name__}: {reward}"[:200], answer)
    return Verdict(reward, "correct" if reward >= 0.5 else "incorrect", "", answer)
