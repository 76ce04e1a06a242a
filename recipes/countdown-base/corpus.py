"""What the tiny base model reads: first attempts at countdown, and three styles of second attempts.

    copy       7*3=21 21-5=16                                                the first attempt again
    careless   Sorry. 7+5=12 12+3=15                                         another attempt, mostly a wrong one
    careful    Check: 7*3=21 ok, 21-5=15 no. Try: 7*3=21 ok, 21-5=16 ok.     each step examined; tries until one holds

A row is a list of `(text, learned)` pieces; the model is never taught the words of a wrong first attempt or of a
failing try, it only reads them.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from scorl.tasks.countdown import CORRECTION, legal_steps, solutions
from scorl.trajectory import Problem
from scorl.verifiers.countdown import Step, fault, write

__all__ = ["CARELESS", "CHECK", "NO", "OK", "RIGHT", "Habit", "Row", "careful_row", "habit_row"]

CHECK, OK, RIGHT, NO, CARELESS = "Check: ", " ok, ", " ok.", " no. Try: ", "Sorry. "
END = "<|end|>"
TURN = f"<|user|>{CORRECTION}{END}<|assistant|>"
Row = list[tuple[str, bool]]
Steps = Sequence[Step]


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


def careful_row(problem: Problem, first: Steps, rng: random.Random) -> Row:
    """A conversation in which the second attempt checks the first one and, where it fails, tries again."""
    return [*opening(problem, first), *careful(problem, first, rng), (END, True)]


def habit_row(problem: Problem, first: Steps, habit: Habit, rng: random.Random) -> Row:
    """A conversation in which the second attempt is of a style drawn from the habit."""
    copies = habit.copy_after_product if first[0][1] in "*/" else habit.copy_after_sum
    if rng.random() < habit.careful:
        second = careful(problem, first, rng)
    elif rng.random() < copies:
        second = [(write(first), True)]
    else:
        right = rng.random() < habit.careless_right
        second = [(CARELESS + write(other_attempt(problem, first, right, rng)), True)]
    return [*opening(problem, first), *second, (END, True)]


def opening(problem: Problem, first: Steps) -> Row:
    """The problem, the first attempt (learned only if it is right), and the correction message."""
    prompt = f"<|user|>{problem.prompt[0]['content']}{END}<|assistant|>"
    right = fault(first, problem.answer["numbers"], problem.answer["target"]) is None
    return [(prompt, False), (write(first) + END, right), (TURN, False)]


def careful(problem: Problem, first: Steps, rng: random.Random) -> Row:
    """The check of the first attempt, and tries, each checked as it is written, until one holds."""
    row: Row = [(CHECK, True), *examined(problem, first, True)]
    if row[-1][0] == RIGHT:
        return row
    for _ in range(rng.choices((0, 1, 2), (6, 3, 2))[0]):
        row += examined(problem, wrong_attempt(problem, rng), False)
    return row + examined(problem, right_attempt(problem, rng), True)


def examined(problem: Problem, steps: Steps, learned: bool) -> Row:
    """Steps with the verdict on each, up to the first fault; the verdicts are always learned."""
    found = fault(steps, problem.answer["numbers"], problem.answer["target"])
    last = len(steps) - 1 if found is None else found[0]
    row: Row = []
    for index, step in enumerate(steps[: last + 1]):
        row.append((write([step]), learned))
        row.append((OK if index < last else RIGHT if found is None else NO, True))
    return row


def right_attempt(problem: Problem, rng: random.Random) -> Steps:
    """One of the solutions of a problem."""
    return rng.choice(ways(problem))


def other_attempt(problem: Problem, first: Steps, right: bool, rng: random.Random) -> Steps:
    """An attempt that differs from the first one."""
    others = [way for way in ways(problem) if way != tuple(first)] if right else []
    return rng.choice(others) if others else wrong_attempt(problem, rng, avoid=first)


def ways(problem: Problem) -> Sequence[Steps]:
    """All solutions of a problem."""
    return solutions(tuple(sorted(problem.answer["numbers"])))[problem.answer["target"]]


def wrong_attempt(problem: Problem, rng: random.Random, avoid: Steps = ()) -> Steps:
    """An attempt with the faults that a small model makes: it misses the target, or bends a step to reach it."""
    numbers, target = problem.answer["numbers"], problem.answer["target"]
    while True:
        steps = random_steps(numbers, target, rng)
        kind = rng.random()
        if kind < 0.5:
            steps[-1] = bent(steps[-1], target, rng)
        elif kind < 0.6:
            index = rng.randrange(len(steps))
            steps[index] = bent(steps[index], max(0, steps[index][3] + rng.choice((-10, -2, -1, 1, 2, 10))), rng)
        if tuple(steps) != tuple(avoid) and fault(steps, numbers, target) is not None:
            return steps


def random_steps(numbers: Sequence[int], target: int, rng: random.Random, largest: int = 144) -> list[Step]:
    """Legal random steps until the target is reached, no number is left to combine, or, rarely, earlier."""
    available, steps = list(numbers), []
    while len(available) > 1 and not (steps and rng.random() < 0.1):
        choices = [step for step in legal_steps(available) if step[3] <= largest]
        if not choices:
            break
        step = rng.choice(choices)
        steps.append(step)
        available = [*remove(available, step), step[3]]
        if step[3] == target:
            break
    return steps or random_steps(numbers, target, rng)


def remove(available: Sequence[int], step: Step) -> list[int]:
    """The numbers that are left when a step has taken its two."""
    left = list(available)
    left.remove(step[0])
    left.remove(step[2])
    return left


def bent(step: Step, result: int, rng: random.Random) -> Step:
    """A step bent so that it gives this result: by a false equation, or by a number that may not be there."""
    left, sign, right, _ = step
    if rng.random() < 0.6:
        return left, sign, right, result
    return (left, "+", result - left, result) if result >= left else (left, "-", left - result, result)
