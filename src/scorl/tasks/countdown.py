"""Countdown: reach a target from given numbers by written steps. Procedural, endless, no download.

    Reach 16 with the numbers 7 3 5. [...]          ->          7*3=21 21-5=16

Every problem can be solved. A problem is its sorted numbers and its target, and a hash of these alone says
which split it belongs to, so that train, validation and test share no problem whatever the seed is.
"""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Interval

from scorl.errors import UserError
from scorl.seeds import derive
from scorl.tasks.endless import Endless
from scorl.tasks.task import Problems, Task
from scorl.trajectory import Problem, user
from scorl.verifiers.countdown import Step, find_steps, judge, write_steps
from scorl.verifiers.thoughts import remove_thoughts

__all__ = ["CORRECTION", "PROMPT", "Countdown", "CountdownProblems", "countdown", "find_solutions", "list_steps"]

PROMPT = (
    "Reach {target} with the numbers {numbers}. Use + - * / in whole numbers, each number at most once, "
    "and write only the steps, as in 8*2=16 16-3=13."
)
CORRECTION = (
    "There might be an error in the solution above. Check its steps, correct the error if there is one, "
    "and write the steps again."
)
BUCKETS = {"test": range(2), "validation": range(2, 3), "train": range(3, 8), "pretraining": range(8, 20)}
"""Twentieths of all problems; the shipped base model has read those of `pretraining` and no others."""
TRIES = 2000
ASKED = re.compile(
    r"[^\d]*(?P<target>\d+)\b[^\d]*[^\W\d_][^\d]*(?P<numbers>\d+(?:(?:[\s,;]+|\s*,?\s+and\s+)\d+)+)\b", re.IGNORECASE
)
"""A question in people's words: the target, words, and the numbers, of which there are at least two."""


@dataclass(frozen=True)
class Countdown:
    """The settings of the countdown task."""

    fills: ClassVar[tuple[str, ...]] = ("{numbers}", "{target}")
    """What the prompt has to contain."""

    numbers: Annotated[int, Interval(ge=2, le=5)] = 4
    """How many numbers a problem gives."""
    largest: Annotated[int, Interval(ge=2, le=1000)] = 12
    """Numbers are drawn from 1 to this one."""
    lowest_target: Annotated[int, Ge(1)] = 1
    """The least number that is asked for."""
    highest_target: int = 60
    """The greatest number that is asked for."""
    fewest_steps: Annotated[int, Ge(1)] = 1
    """How many steps a problem takes at least when solved in the shortest way."""
    most_steps: int = 2
    """How many steps a problem takes at most when solved in the shortest way."""
    prompt: str = PROMPT
    """The first prompt; `{numbers}` and `{target}` are filled in."""
    correction: str = CORRECTION
    """The message between two attempts."""

    def __post_init__(self) -> None:
        if self.lowest_target > self.highest_target:
            raise UserError(f"countdown: no target is from {self.lowest_target} to {self.highest_target}")
        if self.fewest_steps > self.most_steps or self.fewest_steps >= self.numbers:
            raise UserError(
                f"countdown: fewest_steps is {self.fewest_steps}, but should be at most most_steps, {self.most_steps}, "
                f"and below the {self.numbers} numbers"
            )
        for name in self.fills:
            if name not in self.prompt:
                raise UserError(f"countdown: the prompt does not contain {name}")

    def pose_question(self, question: str) -> str:
        """The prompt of a question such as `Reach 36 with the numbers 12 11 7 4.`, the target before the numbers.

        Raises:
            UserError: there is no target and no numbers behind it.
        """
        found = ASKED.match(question)
        if found is None:
            raise UserError(
                f"countdown asks like 'Reach 36 with the numbers 12 11 7 4', not {question!r:.80}: the target, "
                "then words, then at least two numbers"
            )
        return write_prompt(self, re.findall(r"\d+", found["numbers"]), found["target"])

    def find_answer(self, response: str) -> str | None:
        """The last run of steps in a response."""
        return write_steps(find_steps(remove_thoughts(response))) or None

    def asks_for(self, target: int, steps: int) -> bool:
        """Whether a target that takes so many steps is one of the task's."""
        return self.lowest_target <= target <= self.highest_target and steps >= self.fewest_steps


@dataclass(frozen=True)
class CountdownProblems(Endless):
    """The problems of one split."""

    settings: Countdown
    split: str

    def pick(self, *stream: int | str) -> Problem:
        """The first random problem of this split in the stream of that name."""
        rng = random.Random(derive("countdown", self.split, *stream))
        settings = self.settings
        for _ in range(TRIES):
            numbers = [rng.randint(1, settings.largest) for _ in range(settings.numbers)]
            ways = find_solutions(tuple(sorted(numbers)), settings.most_steps)
            targets = [n for n, shortest in ways.items() if settings.asks_for(n, len(shortest[0]))]
            target = rng.choice(targets) if targets else 0
            if target and bucket_of(numbers, target) in BUCKETS[self.split]:
                return make_problem(settings, numbers, target, rng.choice(ways[target]))
        raise UserError(f"countdown: no solvable problems of split '{self.split}' with {settings}")


def countdown(settings: Countdown | None = None) -> Task:
    """The countdown task."""
    settings = settings or Countdown()
    splits: dict[str, Problems] = {name: CountdownProblems(settings, name) for name in BUCKETS}
    return Task("countdown", splits, settings.correction, judge)


def make_problem(settings: Countdown, numbers: Sequence[int], target: int, steps: Sequence[Step]) -> Problem:
    """A problem in the task's wording, with these steps as its reference solution."""
    text = write_prompt(settings, list(map(str, numbers)), str(target))
    name = "-".join(map(str, sorted(numbers)))
    answer = {"numbers": list(numbers), "target": target}
    return Problem(f"countdown-{name}-to-{target}", (user(text),), answer, write_steps(steps))


def write_prompt(settings: Countdown, numbers: Sequence[str], target: str) -> str:
    """A problem in the task's wording."""
    return settings.prompt.replace("{numbers}", " ".join(numbers)).replace("{target}", target)


def bucket_of(numbers: Sequence[int], target: int) -> int:
    """Which twentieth of all problems this one belongs to, whatever the order of its numbers."""
    return derive("countdown", *sorted(numbers), target) % 20


@functools.lru_cache(maxsize=4096)
def find_solutions(numbers: tuple[int, ...], most_steps: int) -> dict[int, tuple[tuple[Step, ...], ...]]:
    """All shortest ways to each target within so many steps, from sorted numbers: target -> ways.

    Targets ascend. Steps are written larger number first, and no step leaves a number as it is (times or divided
    by 1, plus or minus 0).
    """
    ways: dict[int, dict[tuple[Step, ...], None]] = {}
    lines: list[tuple[tuple[int, ...], tuple[Step, ...]]] = [(numbers, ())]
    for _ in range(min(most_steps, len(numbers) - 1)):
        lines = [
            (take_step(available, step), (*steps, step)) for available, steps in lines for step in list_steps(available)
        ]
        reached = set(ways)
        for _, steps in lines:
            if steps[-1][3] not in reached:
                ways.setdefault(steps[-1][3], {})[steps] = None
    return {target: tuple(ways[target]) for target in sorted(ways)}


def take_step(available: Sequence[int], step: Step) -> tuple[int, ...]:
    """The numbers that are there after a step."""
    left = list(available)
    left.remove(step[0])
    left.remove(step[2])
    return (*left, step[3])


def list_steps(available: Sequence[int]) -> list[Step]:
    """The different steps that can be taken with these numbers, larger number first."""
    pairs = dict.fromkeys(
        (max(left, right), min(left, right)) for index, left in enumerate(available) for right in available[index + 1 :]
    )
    return [step for left, right in pairs for step in steps_of(left, right)]


def steps_of(left: int, right: int) -> list[Step]:
    """The steps of a pair with `left >= right`."""
    steps: list[Step] = []
    if right > 0:
        steps += [(left, "+", right, left + right), (left, "-", right, left - right)]
    if right > 1:
        steps.append((left, "*", right, left * right))
        if left % right == 0:
            steps.append((left, "/", right, left // right))
    return steps
