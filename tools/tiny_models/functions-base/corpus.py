"""What the tiny base model of `functions` reads: one-line programs, and three styles of second attempts.

    copy       def f(x): return 3*x+4                             the first attempt again
    careless   # Sorry.                                           another attempt, mostly a wrong one
               def f(x): return 5*x+1
    careful    # 3*x: f(2)=10-6=4, f(5)=16-15=1 no                what the operation leaves of each example;
               # 2*x: f(2)=10-4=6, f(5)=16-10=6, f(1)=8-2=6 ok    while it differs, other operations are tried;
               def f(x): return 2*x+6                             then the program

A row is a list of `(text, learned)` pieces. First attempts are learned in rows of their own, so that how good they get
is set apart from checking; before a second attempt they are only read, and so is the choice of a failing try.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from scorl.tasks.functions import CONSTANTS, CORRECTION, Form, all_forms, write_function

__all__ = [
    "CARELESS",
    "CHECK",
    "DEF",
    "FIRSTS",
    "LARGEST",
    "NO",
    "OK",
    "RIGHT",
    "Asked",
    "Habit",
    "Row",
    "careful_row",
    "find_form",
    "first_row",
    "habit_row",
    "right",
    "wrong_attempt",
]

CHECK, OK, RIGHT, NO, CARELESS, DEF = "# ", ", ", " ok\n", " no\n", "# Sorry.\n", "def f(x): return "
END = "<|end|>"
LARGEST = 120
"""The largest number that the tokenizer knows."""
TURN = f"<|user|>{CORRECTION}{END}<|assistant|>"
FIRSTS = tuple(dict.fromkeys(form.first for form in all_forms()))
Row = list[tuple[str, bool]]


@dataclass(frozen=True)
class Asked:
    """A problem as the corpus needs it: the prompt with its turn, the hidden function, the examples."""

    prompt: str
    form: Form
    examples: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Habit:
    """How often the second attempts of the base are of which style."""

    careful: float = 0.3
    copy_after_minus: float = 0.1
    """Of the others, copies where the first attempt subtracts its constant, ..."""
    copy_after_plus: float = 0.62
    """... and where it adds it; the rest are careless."""
    careless_right: float = 0.15
    """Of the careless attempts, how many are right."""


def find_form(text: str) -> Form | None:
    """The function of a first attempt, if it is of the world's kind."""
    found = re.fullmatch(r"def f\(x\): return (\d\*x|x\*x|x//\d)([+-])(\d+)", text)
    return Form(found[1], "+" if found[2] == "+" else "-", int(found[3])) if found and found[1] in FIRSTS else None


def right(form: Form, asked: Asked) -> bool:
    """Whether a function has the values of the examples."""
    return all(form(x) == y for x, y in asked.examples)


def first_row(asked: Asked) -> Row:
    """A problem and its function."""
    return [(asked.prompt, False), (write_function(asked.form), True), (END, True)]


def careful_row(asked: Asked, attempts: Sequence[Form], rng: random.Random) -> Row:
    """A conversation whose second attempt checks the first of `attempts`; the others are failing tries."""
    return [*opening(asked, attempts[0]), *careful(asked, attempts, rng), (END, True)]


def habit_row(asked: Asked, attempts: Sequence[Form], habit: Habit, rng: random.Random) -> Row:
    """A conversation whose second attempt is of a style drawn from the habit."""
    first = attempts[0]
    copies = habit.copy_after_plus if first.sign == "+" else habit.copy_after_minus
    if rng.random() < habit.careful:
        second = careful(asked, attempts, rng)
    elif rng.random() < copies:
        second = [(write_function(first), True)]
    else:
        other = another(asked, attempts, rng.random() < habit.careless_right, rng)
        second = [(CARELESS + write_function(other), True)]
    return [*opening(asked, first), *second, (END, True)]


def opening(asked: Asked, first: Form) -> Row:
    """The problem, the first attempt and the correction message, all of them only read."""
    return [(f"{asked.prompt}{write_function(first)}{END}{TURN}", False)]


def careful(asked: Asked, attempts: Sequence[Form], rng: random.Random) -> Row:
    """The first attempt's operation on the examples; tries until one leaves the same constant; the program."""
    row = examined(asked, attempts[0].first, True)
    for form in attempts[1 : 1 + rng.choices((0, 1, 2), (6, 3, 2))[0]]:
        if row[-1][0] == NO and form.first != asked.form.first:
            row += examined(asked, form.first, False)
    if row[-1][0] == NO:
        row += examined(asked, asked.form.first, True)
    return [*row, (write_function(asked.form), True)]


def examined(asked: Asked, first: str, learned: bool) -> Row:
    """What a first operation leaves of each example, up to where it differs, and the verdict.

    Values and verdicts are always learned; the choice of the operation only if `learned`.
    """
    row: Row = [(CHECK, True), (first, learned), (": ", True)]
    half, left = Form(first, "+", 0), []
    for x, y in asked.examples:
        left.append(y - half(x))
        row.append((f"f({x})={y}-{half(x)}={left[-1]}", True))
        if left[-1] != left[0]:
            return [*row, (NO, True)]
        row.append((OK, True))
    return [*row[:-1], (RIGHT if first == asked.form.first else NO, True)]


def another(asked: Asked, attempts: Sequence[Form], wanted: bool, rng: random.Random) -> Form:
    """An attempt that differs from the first one, right if that is wanted and possible."""
    if wanted and attempts[0] != asked.form:
        return asked.form
    others = [form for form in attempts[1:] if form != attempts[0] and not right(form, asked)]
    return rng.choice(others) if others else wrong_attempt(asked, rng, attempts[0])


def wrong_attempt(asked: Asked, rng: random.Random, avoid: Form | None = None) -> Form:
    """An attempt with the faults of a small model: mostly right on one example, and wrong on another."""
    while True:
        form = Form(rng.choice(FIRSTS), "+", 1) if rng.random() < 0.7 else asked.form
        x, y = rng.choice(asked.examples)
        rest = y - form.apply_first(x)
        if rng.random() < 0.3 or not 1 <= abs(rest) <= CONSTANTS[-1]:
            rest = rng.choice((-1, 1)) * rng.choice(CONSTANTS)
        form = Form(form.first, "+" if rest > 0 else "-", abs(rest))
        if not right(form, asked) and form != avoid:
            return form
