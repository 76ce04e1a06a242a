"""Functions: write a one-line Python function from a few of its values. Procedural, endless, no download.

    Write a Python function of one line, def f(x): return ..., with f(3)=13 f(8)=33 f(5)=21.
    ->          def f(x): return 4*x+1

A toy environment of programs, as countdown is one of steps: the program runs in the sandbox, and some of the values
that it is tested on are not shown. A problem is a function and the inputs that are shown, and a hash of these alone
says which split it belongs to, so that train, validation and test share no problem whatever the seed is.
"""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, NamedTuple

from annotated_types import Interval

from scorl.errors import UserError
from scorl.seeds import derive
from scorl.tasks.coding import ProgramSettings
from scorl.tasks.endless import Endless
from scorl.tasks.task import Task
from scorl.trajectory import Problem, user
from scorl.verifiers.program import Examination

__all__ = ["CORRECTION", "PROMPT", "Form", "FunctionProblems", "Functions", "all_forms", "functions", "write_function"]

PROMPT = "Write a Python function of one line, def f(x): return ..., with {examples}."
CORRECTION = (
    "There might be an error in the function above. Check it on the examples, correct it if it is wrong, "
    "and write the function again."
)
BUCKETS = {"test": range(2), "validation": range(2, 3), "train": range(3, 8), "pretraining": range(8, 20)}
"""Twentieths of all problems; the shipped base model has read those of `pretraining` and no others."""
SIGNS: tuple[Literal["+"], Literal["-"]] = ("+", "-")
FACTORS, DIVISORS, CONSTANTS = range(2, 10), range(2, 6), range(1, 31)
INPUTS, HIDDEN = range(1, 10), range(16)
"""Where examples are taken from, and where a program is tested beside them."""


class Form(NamedTuple):
    """A function of the task: a first operation on x, then a constant added or subtracted."""

    first: str
    """`4*x`, `x*x` or `x//3`."""
    sign: Literal["+", "-"]
    constant: int

    def apply_first(self, x: int) -> int:
        """The value of the first operation."""
        left, right = (x if part == "x" else int(part) for part in self.first.replace("//", "*").split("*"))
        return left // right if "//" in self.first else left * right

    def __call__(self, x: int) -> int:
        return self.apply_first(x) + (self.constant if self.sign == "+" else -self.constant)


def write_function(form: Form) -> str:
    """The function as the base model writes it."""
    return f"def f(x): return {form.first}{form.sign}{form.constant}"


@dataclass(frozen=True, kw_only=True)
class Functions(ProgramSettings):
    """The settings of the task `functions`."""

    task: ClassVar[str] = "functions"
    fills: ClassVar[tuple[str, ...]] = ("{examples}",)

    examples: Annotated[int, Interval(ge=2, le=6)] = 3
    """How many values a prompt shows."""
    hidden: Annotated[int, Interval(ge=1, le=10)] = 5
    """How many values a program is tested on beside those that are shown."""
    prompt: str = PROMPT
    """The first prompt; `{examples}` is filled in."""
    correction: str = CORRECTION

    def pose_question(self, question: str) -> str:
        """The prompt of a question that names values, such as `f(2)=7 f(5)=13`.

        Raises:
            UserError: it names none.
        """
        examples = re.findall(r"f\(\d+\)\s*=\s*\d+", question)
        if not examples:
            raise UserError(f"functions asks for values like 'f(2)=7 f(5)=13 f(1)=5', not {question!r:.80}")
        return self.prompt.replace("{examples}", " ".join(re.sub(r"\s", "", one) for one in examples))


@dataclass(frozen=True)
class FunctionProblems(Endless):
    """The problems of one split."""

    settings: Functions
    split: str

    def pick(self, *stream: int | str) -> Problem:
        """The first random problem of this split in the stream of that name."""
        return make_problem(self.settings, *self.choose(*stream))

    def choose(self, *stream: int | str) -> tuple[Form, tuple[int, ...], tuple[int, ...]]:
        """A function that its examples tell from all others, and the inputs that are shown and that are not."""
        rng = random.Random(derive("functions", self.split, *stream))
        while True:
            form = rng.choice(all_forms())
            shown = tuple(rng.sample(INPUTS, self.settings.examples))
            examples = [(x, form(x)) for x in shown]
            if bucket_of(form, shown) not in BUCKETS[self.split] or min(y for _, y in examples) < 0:
                continue
            if find_forms(examples) == {form}:
                others = [x for x in HIDDEN if x not in shown]
                return form, shown, tuple(rng.sample(others, self.settings.hidden))


def functions(settings: Functions | None = None) -> Task:
    """The task `functions`."""
    settings = settings or Functions()
    return settings.make_task({name: FunctionProblems(settings, name) for name in BUCKETS})


def make_problem(settings: Functions, form: Form, shown: Sequence[int], hidden: Sequence[int]) -> Problem:
    """A problem in the task's wording; the tests are the shown values and the hidden ones."""
    text = settings.prompt.replace("{examples}", " ".join(f"f({x})={form(x)}" for x in shown))
    tests = tuple(f"assert f({x}) == {form(x)}" for x in (*shown, *hidden))
    answer = Examination(tests, entry_point="f", timeout=settings.timeout)
    name = f"functions-{form.first}{form.sign}{form.constant}-at-{'-'.join(map(str, shown))}"
    return Problem(name, (user(text),), answer, write_function(form))


@functools.cache
def all_forms() -> tuple[Form, ...]:
    """All functions of the task."""
    firsts = [*(f"{a}*x" for a in FACTORS), "x*x", *(f"x//{a}" for a in DIVISORS)]
    return tuple(Form(first, sign, b) for first in firsts for sign in SIGNS for b in CONSTANTS)


def bucket_of(form: Form, shown: Sequence[int]) -> int:
    """Which twentieth of all problems this one belongs to, whatever the order of its examples."""
    return derive("functions", write_function(form), *sorted(shown)) % 20


def find_forms(examples: Sequence[tuple[int, int]]) -> set[Form]:
    """The functions of the task with these values."""
    return set.intersection(*(set(forms_with_value(x, y)) for x, y in examples))


@functools.cache
def forms_with_value(x: int, y: int) -> frozenset[Form]:
    """The functions of the task with this value at x."""
    return frozenset(form for form in all_forms() if form(x) == y)
