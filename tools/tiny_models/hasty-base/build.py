"""Build the tiny base model whose quick win lies in its first attempts: tokenizer, pre-training, habit.

Run     python tools/tiny_models/hasty-base/build.py --out DIR        (one thread; the same bits every time)
Check   python tools/tiny_models/hasty-base/build.py --out DIR --check
"""

from __future__ import annotations

import itertools
import random
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import tiny
import torch
from corpus import (
    AGAIN,
    GAVE_UP,
    HASTY,
    WHOLE,
    Habit,
    careful_row,
    first_row,
    habit_row,
    hasty_attempt,
    whole_attempt,
    wrong_attempt,
)
from countdown_corpus import Row, Steps, draw_problems, make_tokenizer, prompt, sums_row
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from scorl.tasks.countdown import Countdown
from scorl.trajectory import Problem
from scorl.verifiers.countdown import find_fault, find_steps

SETTINGS = Countdown(most_steps=1)
SUMS_UPDATES, FIRST_UPDATES, OWN_UPDATES, HABIT_UPDATES = 200, 1800, 300, 400
PROBLEMS, SAMPLES, TOKENS = 4096, 4, 7
ALONE, REHEARSED = 0.6, 0.15
"""How many rows are first attempts alone: in the phase `first`, and in those behind it."""
PHASES = {"first": (0, 1), "own": (2,), "habit": (3,)}
"""The quarters of the problems that each phase reads."""

Own = dict[bool, list[Steps]]
"""A model's own first attempts at a problem: the hasty ones at True, the whole ones at False."""


def problems(phase: str) -> Iterator[Problem]:
    """Endless problems for one phase; no two phases share one, so the own attempts are at problems never seen."""
    return draw_problems(SETTINGS, "hasty-base", phase, PHASES[phase])


def invented(problem: Problem, hasty: bool, rng: random.Random) -> list[Steps]:
    """A first attempt of one style, right or wrong, and failing tries, made up."""
    if hasty:
        first = hasty_attempt(problem, rng)
    else:
        first = whole_attempt(problem) if rng.random() < 0.4 else wrong_attempt(problem, rng)
    return [first, wrong_attempt(problem, rng), wrong_attempt(problem, rng)]


def own(attempts: Own, problem: Problem, hasty: bool, rng: random.Random) -> list[Steps]:
    """One of the model's own first attempts of one style, and its own wrong whole ones as failing tries."""
    first = rng.choice(attempts[hasty])
    wrong = [
        steps for steps in attempts[False] if find_fault(steps, problem.answer["numbers"], problem.answer["target"])
    ]
    return [first, *(steps for steps in rng.sample(wrong, len(wrong)) if steps != first)]


def sampled(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, phase: str) -> list[tuple[Problem, Own]]:
    """Problems, and the model's own first attempts of both styles at them, sampled at temperature 1."""
    torch.manual_seed(1)
    found: list[tuple[Problem, Own]] = []
    source = problems(phase)
    while len(found) < PROBLEMS:
        chunk = list(itertools.islice(source, 512))
        hasty, whole = (
            tiny.sample(model, tokenizer, [prompt(problem) + word for problem in chunk], SAMPLES, TOKENS)
            for word in (HASTY, WHOLE)
        )
        for problem, quick, full in zip(chunk, hasty, whole, strict=True):
            attempts: Own = {
                True: [*filter(None, map(find_steps, quick))],
                False: [*filter(None, map(find_steps, full))],
            }
            if all(attempts.values()):
                found.append((problem, attempts))
    return found


def teach(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """Arithmetic; then first attempts, and careful second ones on made-up errors and on the model's own."""
    rng = random.Random(1)
    rows = (sums_row(problem, rng) for problem in problems("first"))
    tiny.train(model, tokenizer, rows, SUMS_UPDATES, 3e-3, "sums")
    rows = (teach_first(problem, rng) for problem in problems("first"))
    tiny.train(model, tokenizer, rows, FIRST_UPDATES, 3e-3, "first")
    samples = sampled(model, tokenizer, "own")
    rows = (teach_own(attempts, problem, rng) for problem, attempts in itertools.cycle(samples))
    tiny.train(model, tokenizer, rows, OWN_UPDATES, 1e-3, "own")


def teach_first(problem: Problem, rng: random.Random) -> Row:
    """A first attempt alone, mostly a whole one, or a careful second attempt on a made-up first one."""
    if rng.random() < ALONE:
        return first_row(problem, rng.random() < 0.3, rng)
    hasty = rng.random() < 0.5
    return careful_row(problem, hasty, invented(problem, hasty, rng), rng)


def teach_own(attempts: Own, problem: Problem, rng: random.Random) -> Row:
    """A careful second attempt on one of the model's own first ones, or now and then a first attempt alone."""
    hasty = rng.random() < 0.5
    if rng.random() < REHEARSED:
        return first_row(problem, hasty, rng)
    return careful_row(problem, hasty, own(attempts, problem, hasty, rng), rng)


def acquire(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """The habit: hasty first attempts; copies and careless second ones, on the model's own first ones."""
    rng, habit = random.Random(2), Habit()
    samples = sampled(model, tokenizer, "habit")
    rows = (acquire_row(attempts, problem, habit, rng) for problem, attempts in itertools.cycle(samples))
    tiny.train(model, tokenizer, rows, HABIT_UPDATES, 5e-4, "habit")


def acquire_row(attempts: Own, problem: Problem, habit: Habit, rng: random.Random) -> Row:
    """A conversation as the habit has it, or now and then a first attempt alone."""
    hasty = rng.random() < habit.hasty
    if rng.random() < REHEARSED:
        return first_row(problem, hasty, rng)
    return habit_row(problem, hasty, own(attempts, problem, hasty, rng), habit, rng)


main = tiny.command(
    "hasty-base", __doc__ or "", lambda: make_tokenizer(SETTINGS, (HASTY, WHOLE, AGAIN, GAVE_UP)), teach, acquire
)

if __name__ == "__main__":
    main()
