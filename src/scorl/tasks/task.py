"""What a task is: problems by split, the wording of the turns, and a judge."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from scorl.errors import UserError, nearest
from scorl.tasks.turns import Correction, Turn, Turns
from scorl.trajectory import Message, Problem, Verdict
from scorl.verifiers import Judge

__all__ = ["Problems", "Task", "check_verdicts"]


class Problems(Protocol):
    """The problems of one split, endless or finite."""

    def draw(self, count: int, start: int, seed: int) -> list[Problem]:
        """`count` training problems, the first of which is the `start`-th that this run draws.

        A pure function of its arguments: finite splits go through a seeded permutation, epoch by epoch.
        """
        ...

    def take(self, limit: int | None) -> list[Problem]:
        """The first `limit` problems in a fixed order, for evaluation; None: all of a finite split,
        a documented number of an endless one."""
        ...


@dataclass(frozen=True)
class Changed:
    """Problems in another wording."""

    problems: Problems
    change: Callable[[Problem], Problem]

    def draw(self, count: int, start: int, seed: int) -> list[Problem]:
        """See `Problems`."""
        return [self.change(problem) for problem in self.problems.draw(count, start, seed)]

    def take(self, limit: int | None) -> list[Problem]:
        """See `Problems`."""
        return [self.change(problem) for problem in self.problems.take(limit)]


@dataclass(frozen=True)
class Task:
    """Problems by split, the correction message between two attempts, and a judge."""

    name: str
    splits: Mapping[str, Problems]
    correction: str
    """The message after an attempt: it says that there might be an error, never whether there is one."""
    judge: Judge
    between: Turns = field(default_factory=Correction)
    """What is said between two attempts, one of `TURNS`."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What a recipe says of it, which evaluations keep; empty for a task that was made in Python."""

    def turns(self, attempts: int) -> tuple[Turn, ...]:
        """What is said between so many attempts."""
        return self.between(self.correction, attempts)

    def map_problems(self, change: Callable[[Problem], Problem]) -> Task:
        """The task with its problems in another wording; splits and ids stay as they are."""
        return replace(self, splits={name: Changed(problems, change) for name, problems in self.splits.items()})

    def with_system_prompt(self, text: str) -> Task:
        """The task with a system prompt before its problems; one that brings its own keeps that."""
        before = Message(role="system", content=text)
        return self.map_problems(
            lambda problem: (
                problem if problem.prompt[0]["role"] == "system" else replace(problem, prompt=(before, *problem.prompt))
            )
        )

    def split(self, name: str) -> Problems:
        """The problems of a split.

        Raises:
            UserError: the task has no such split.
        """
        if name not in self.splits:
            raise UserError(f"task '{self.name}' has no split '{name}': {nearest(name, self.splits)}")
        return self.splits[name]


def check_verdicts(task: Task, problems: Sequence[Problem], verdicts: Sequence[Verdict]) -> None:
    """Refuse what a judge of the user's own must not say: nothing could be learned from it, or written as JSON."""
    if not isinstance(verdicts, Sequence) or isinstance(verdicts, str):
        raise UserError(
            f"task '{task.name}': the judge gave {_show(verdicts)}; it should return a list with a Verdict on each "
            "attempt"
        )
    if len(verdicts) != len(problems):
        raise UserError(f"task '{task.name}': the judge gave {len(verdicts)} verdicts on {len(problems)} attempts")
    for problem, verdict in zip(problems, verdicts, strict=True):
        where = f"for an attempt at problem {problem.id}"
        if not isinstance(verdict, Verdict):
            raise UserError(
                f"task '{task.name}': the judge gave {verdict!r:.60} {where}; it should return a Verdict, as in "
                "Verdict(1.0, 'correct')"
            )
        if not _is_finite(verdict.reward):
            raise UserError(
                f"task '{task.name}': the judge's reward {where} is {_show(verdict.reward)}; a reward is a finite "
                "number"
            )


def _is_finite(reward: Any) -> bool:
    """Whether it is a number that a float can be: numpy's are taken too."""
    try:
        return not isinstance(reward, str) and math.isfinite(reward)
    except (TypeError, OverflowError, ValueError):
        return False


def _show(reward: Any) -> str:
    """It, if that is short: Python writes no number of more than 4,300 digits."""
    try:
        return f"{reward!r:.60}"
    except ValueError:
        return "too large"
