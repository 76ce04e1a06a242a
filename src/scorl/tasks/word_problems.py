"""`word-problems`: endless sums, products and stories in words, so that there is material without a
download.

The splits are disjoint by construction: a hash of what a problem is at heart (its kind, its story and its
numbers, whatever the names and the wording) puts one in five into the test split and one in ten into the
validation split.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from scorl.errors import UserError, nearest
from scorl.seeds import derive
from scorl.tasks.data import fill_prompt
from scorl.tasks.endless import Endless
from scorl.tasks.stories import ONE_STEP, TWO_STEP, Story
from scorl.tasks.task import Task
from scorl.trajectory import Problem
from scorl.verifiers.math import judge_numbers

__all__ = ["CORRECTION", "PROMPT", "WordProblems", "word_problems"]

PROMPT = "{question}\n\nWork it out step by step. End with the words: The answer is N."
CORRECTION = (
    "There might be an error in your answer above. Go through it again step by step, correct it if something is wrong, "
    "and end with the words: The answer is N."
)
BUCKETS = {"train": range(3, 10), "validation": range(2, 3), "test": range(2)}
"""Tenths of all exercises."""


@dataclass(frozen=True)
class Exercise:
    """One generated problem: its text, the steps to its answer, and what it is at heart."""

    question: str
    steps: tuple[str, ...]
    answer: int
    core: str


@dataclass(frozen=True)
class WordProblems:
    """Settings of `word-problems`."""

    kinds: tuple[str, ...] = ("one-step", "two-step")
    """Any of `products` (up to 12 x 20), `sums` (of two 2-digit numbers), stories `one-step`, `two-step`."""
    prompt: str = PROMPT
    """The first prompt; `{question}` is filled in."""
    correction: str = CORRECTION
    """The message between two attempts."""

    def __post_init__(self) -> None:
        if not self.kinds:
            raise UserError(f"word-problems: kinds is empty. Allowed: {', '.join(KINDS)}")
        for kind in self.kinds:
            if kind not in KINDS:
                raise UserError(f"word-problems: no kind '{kind}': {nearest(kind, KINDS)}")


def make_product(rng: random.Random) -> Exercise:
    """A product up to 12 x 20."""
    small, large = rng.randint(2, 12), rng.randint(2, 20)
    one, other = rng.sample((small, large), 2)
    words = (
        "What is {} times {}?",
        "What is {} multiplied by {}?",
        "Calculate {} x {}.",
        "Multiply {} by {}.",
    )
    core = f"products {min(one, other)} {max(one, other)}"
    answer = one * other
    return Exercise(rng.choice(words).format(one, other), (f"{one} * {other} = {answer}",), answer, core)


def make_sum(rng: random.Random) -> Exercise:
    """A sum of two numbers of two digits."""
    one, other = rng.randint(10, 99), rng.randint(10, 99)
    words = ("What is {} plus {}?", "What is the sum of {} and {}?", "Calculate {} + {}.", "Add {} and {}.")
    core = f"sums {min(one, other)} {max(one, other)}"
    answer = one + other
    return Exercise(rng.choice(words).format(one, other), (f"{one} + {other} = {answer}",), answer, core)


def make_one_step(rng: random.Random) -> Exercise:
    """A story with one step."""
    return fill_story(rng.choice(ONE_STEP), rng)


def make_two_step(rng: random.Random) -> Exercise:
    """A story with two steps."""
    return fill_story(rng.choice(TWO_STEP), rng)


def fill_story(story: Story, rng: random.Random) -> Exercise:
    """A story with numbers, names and things."""
    values = story.draw_numbers(rng)
    steps, answer = story.solve(values)
    core = f"{story.name} " + " ".join(f"{name}={value}" for name, value in sorted(values.items()))
    return Exercise(story.tell(values, rng), steps, answer, core)


KINDS: Mapping[str, Callable[[random.Random], Exercise]] = {
    "products": make_product,
    "sums": make_sum,
    "one-step": make_one_step,
    "two-step": make_two_step,
}


@dataclass(frozen=True)
class WordProblemSplit(Endless):
    """One split: the exercises whose core hashes into it."""

    settings: WordProblems
    split: str

    def pick(self, *stream: int | str) -> Problem:
        """The first random problem of this split in the stream of that name."""
        exercise = self.choose(*stream)
        return Problem(
            id=f"word-problems-{derive(exercise.question):016x}",
            prompt=fill_prompt(self.settings.prompt, exercise.question),
            answer=str(exercise.answer),
            solution=". ".join(exercise.steps) + f". The answer is {exercise.answer}.",
        )

    def choose(self, *stream: int | str) -> Exercise:
        """The exercise of a stream, ("draw", seed, position) or ("take", position)."""
        # The published runs drew before streams had names: these seeds give the same problems.
        seed, position = stream[1:] if stream[0] == "draw" else (derive("take"), stream[1])
        rngs = (random.Random(derive(seed, "exercise", position, number)) for number in itertools.count())
        exercises = (KINDS[rng.choice(self.settings.kinds)](rng) for rng in rngs)
        return next(one for one in exercises if derive(one.core) % 10 in BUCKETS[self.split])


def word_problems(settings: WordProblems | None = None) -> Task:
    """The task `word-problems`, with the splits `train`, `validation` and `test`."""
    settings = settings or WordProblems()
    splits = {name: WordProblemSplit(settings, name) for name in BUCKETS}
    return Task("word-problems", splits, settings.correction, judge_numbers)
