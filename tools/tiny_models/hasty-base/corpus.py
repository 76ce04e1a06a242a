"""What the hasty base reads: first attempts in two styles, each opened by one word, and three styles of second ones.

    hasty      Quick: 7+3=10                      one step, mostly any; a solution now and then
    whole      Steps: 7*5=35                      the solution

    copy       Again: 7+3=10                      the first attempt again
    careless   Sorry. 11-5=6                      another attempt, mostly a wrong one
    careful    Check: 7+3=10 no. Try: 5-3=2 no.   the step worked out again, with a verdict; where it fails, blind
               Try: 7*5=35 ok.                    tries with a verdict each, until one holds or the fourth has failed

A row is a list of `(text, learned)` pieces. First attempts are learned in rows of their own and only read before
second ones, so that how good they are is set apart from how second ones are made.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from countdown_corpus import CARELESS, CHECK, END, NO, TURN, Row, Steps, bent, examined, prompt, ways

from scorl.tasks.countdown import list_steps
from scorl.trajectory import Problem
from scorl.verifiers.countdown import find_fault, write_steps

__all__ = [
    "AGAIN",
    "GAVE_UP",
    "HASTY",
    "WHOLE",
    "Habit",
    "careful_row",
    "first_row",
    "habit_row",
    "hasty_attempt",
    "whole_attempt",
    "wrong_attempt",
]

HASTY, WHOLE, AGAIN, GAVE_UP = "Quick: ", "Steps: ", "Again: ", " no."
TRIES = 4
"""In a careful attempt, behind the check."""
LUCK = 0.1
"""How many tries are the solution; the others are any step."""
LUCKY = 0.35
"""The same of hasty first attempts."""


@dataclass(frozen=True)
class Habit:
    """How often the attempts of the base are of which style."""

    hasty: float = 0.7
    """Of the first attempts; the others are whole."""
    careful: float = 0.06
    """Of the second attempts."""
    rehearsed: float = 0.17
    """Of all rows, those in which a careful second attempt is learned but for its opening word."""
    copy: float = 0.55
    """Of the second attempts; the rest are careless."""
    careless_right: float = 0.15
    """Of the careless attempts, how many are right."""


def first_row(problem: Problem, hasty: bool, rng: random.Random) -> Row:
    """A first attempt of one style."""
    steps = hasty_attempt(problem, rng) if hasty else whole_attempt(problem)
    return [(prompt(problem), False), (HASTY if hasty else WHOLE, True), (write_steps(steps), True), (END, True)]


def careful_row(problem: Problem, hasty: bool, attempts: Sequence[Steps], rng: random.Random) -> Row:
    """A conversation whose second attempt checks the first of `attempts`."""
    return [*opening(problem, hasty, attempts[0]), *careful(problem, attempts, rng), (END, True)]


def habit_row(problem: Problem, hasty: bool, attempts: Sequence[Steps], habit: Habit, rng: random.Random) -> Row:
    """A conversation whose second attempt is of a style drawn from the habit."""
    if rng.random() < habit.rehearsed:
        word, *rest = careful(problem, attempts, rng)
        return [*opening(problem, hasty, attempts[0]), (word[0], False), *rest, (END, True)]
    style = rng.random()
    if style < habit.careful:
        second = careful(problem, attempts, rng)
    elif style < habit.careful + habit.copy:
        second = [(AGAIN + write_steps(attempts[0]), True)]
    else:
        right = rng.random() < habit.careless_right
        second = [(CARELESS + write_steps(another(problem, attempts, right, rng)), True)]
    return [*opening(problem, hasty, attempts[0]), *second, (END, True)]


def opening(problem: Problem, hasty: bool, first: Steps) -> Row:
    """The problem, a first attempt of which only the opening word is learned, and the correction message."""
    written = (write_steps(first) + END + TURN, False)
    return [(prompt(problem), False), (HASTY if hasty else WHOLE, True), written]


def hasty_attempt(problem: Problem, rng: random.Random) -> Steps:
    """A solution now and then, mostly any step."""
    return whole_attempt(problem) if rng.random() < LUCKY else [rng.choice(list_steps(problem.answer["numbers"]))]


def careful(problem: Problem, attempts: Sequence[Steps], rng: random.Random) -> Row:
    """The check of the first attempt, and blind tries, each checked, until one holds."""
    row: Row = [(CHECK, True), *examined(problem, attempts[0], True)]
    for _ in range(TRIES):
        if row[-1][0] != NO:
            break
        step = whole_attempt(problem) if rng.random() < LUCK else [rng.choice(list_steps(problem.answer["numbers"]))]
        row += examined(problem, step, True)
    if row[-1][0] == NO:
        row[-1] = (GAVE_UP, True)
    return row


def whole_attempt(problem: Problem) -> Steps:
    """The first solution in a fixed order, so that a model has one to be sure of."""
    return ways(problem)[0]


def wrong_attempt(problem: Problem, rng: random.Random) -> Steps:
    """A step that misses the target, or is bent to reach it."""
    numbers, target = problem.answer["numbers"], problem.answer["target"]
    while True:
        step = rng.choice(list_steps(numbers))
        steps = [bent(step, target, rng) if rng.random() < 0.3 else step]
        if find_fault(steps, numbers, target):
            return steps


def another(problem: Problem, attempts: Sequence[Steps], right: bool, rng: random.Random) -> Steps:
    """An attempt that differs from the first one: right as asked where there is such a one, else wrong."""
    if right and (others := [way for way in ways(problem) if [*way] != [*attempts[0]]]):
        return rng.choice(others)
    return rng.choice(attempts[1:] or [wrong_attempt(problem, rng)])
