"""What the tiny base model reads: first attempts at countdown, and three styles of second attempts.

    copy       7*3=21 21-5=16                     the first attempt again
    careless   Sorry. 7+5=12 12+3=15              another attempt, mostly a wrong one
    careful    Check: 7+3=10 ok, 10+5=15 no.      each step worked out again, with a verdict;
               Try: 7*3=21 ok, 21-5=16 ok.        where it fails, tries until one holds

A row is a list of `(text, learned)` pieces: the model only reads a wrong first attempt and the choice of a
failing try, it is never taught to write them.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from countdown_corpus import (
    CARELESS,
    CHECK,
    END,
    LARGEST,
    NO,
    RIGHT,
    TURN,
    Row,
    Steps,
    bent,
    examined,
    prompt,
    random_steps,
    ways,
)

from scorl.trajectory import Problem
from scorl.verifiers.countdown import find_fault, write_steps

__all__ = ["Habit", "careful_row", "habit_row", "right_attempt", "wrong_attempt"]


@dataclass(frozen=True)
class Habit:
    """How often the second attempts of the base are of which style."""

    careful: float = 0.12
    copy_after_product: float = 0.25
    """Of the others, copies where the first attempt begins with a product or a quotient, ..."""
    copy_after_sum: float = 0.7
    """... and where it begins with a sum or a difference; the rest are careless."""
    careless_right: float = 0.15
    """Of the careless attempts, how many are right."""


def careful_row(problem: Problem, attempts: Sequence[Steps], rng: random.Random) -> Row:
    """A conversation whose second attempt checks the first of `attempts`; the others are failing tries."""
    return [*opening(problem, attempts[0]), *careful(problem, attempts, rng), (END, True)]


def habit_row(problem: Problem, attempts: Sequence[Steps], habit: Habit, rng: random.Random) -> Row:
    """A conversation whose second attempt is of a style drawn from the habit."""
    first = attempts[0]
    copies = habit.copy_after_product if first[0][1] in "*/" else habit.copy_after_sum
    if rng.random() < habit.careful:
        second = careful(problem, attempts, rng)
    elif rng.random() < copies:
        second = [(write_steps(first), True)]
    else:
        right = rng.random() < habit.careless_right
        second = [(CARELESS + write_steps(another(problem, attempts, right, rng)), True)]
    return [*opening(problem, first), *second, (END, True)]


def opening(problem: Problem, first: Steps) -> Row:
    """The problem, the first attempt (learned only if it is right) and its end, and the correction message."""
    right = find_fault(first, problem.answer["numbers"], problem.answer["target"]) is None
    return [(prompt(problem), False), (write_steps(first), right), (END, True), (TURN, False)]


def careful(problem: Problem, attempts: Sequence[Steps], rng: random.Random) -> Row:
    """The check of the first attempt, and tries, each checked as it is written, until one holds."""
    row: Row = [(CHECK, True), *examined(problem, attempts[0], True)]
    for steps in attempts[1 : 1 + rng.choices((0, 1, 2), (6, 3, 2))[0]]:
        if row[-1][0] == NO:
            row += examined(problem, steps, False)
    return row if row[-1][0] == RIGHT else row + examined(problem, right_attempt(problem, rng), True)


def right_attempt(problem: Problem, rng: random.Random) -> Steps:
    """One of the solutions of a problem."""
    return rng.choice(ways(problem))


def another(problem: Problem, attempts: Sequence[Steps], right: bool, rng: random.Random) -> Steps:
    """An attempt that differs from the first one, right or wrong as asked where there is such a one."""
    first, numbers, target = tuple(attempts[0]), problem.answer["numbers"], problem.answer["target"]
    pool = ways(problem) if right else [way for way in attempts if find_fault(way, numbers, target)]
    others = [way for way in pool if tuple(way) != first]
    return rng.choice(others) if others else wrong_attempt(problem, rng, avoid=first)


def wrong_attempt(problem: Problem, rng: random.Random, avoid: Steps = ()) -> Steps:
    """An attempt with the faults of a small model: it misses the target, or bends a step to reach it."""
    numbers, target = problem.answer["numbers"], problem.answer["target"]
    while True:
        steps = random_steps(numbers, target, rng)
        kind = rng.random()
        if kind < 0.6:
            steps[-1] = bent(steps[-1], target, rng)
        elif kind < 0.7:
            index = rng.randrange(len(steps))
            slip = steps[index][3] + rng.choice((-10, -2, -1, 1, 2, 10))
            steps[index] = bent(steps[index], max(0, min(LARGEST, slip)), rng)
        if tuple(steps) != tuple(avoid) and find_fault(steps, numbers, target) is not None:
            return steps
