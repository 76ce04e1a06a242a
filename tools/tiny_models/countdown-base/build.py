"""Build the tiny base model for countdown: tokenizer, chat template, pre-training, habit.

Run     python tools/tiny_models/countdown-base/build.py --out DIR        (one thread; the same bits every time)
Check   python tools/tiny_models/countdown-base/build.py --out DIR --check
"""

from __future__ import annotations

import itertools
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import tiny
import torch
from corpus import Habit, careful_row, habit_row, right_attempt, wrong_attempt
from countdown_corpus import Steps, draw_problems, make_tokenizer, prompt, sums_row
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from scorl.tasks.countdown import Countdown
from scorl.trajectory import Problem
from scorl.verifiers.countdown import find_fault, find_steps

SETTINGS = Countdown()
SUMS_UPDATES, FIRST_UPDATES, OWN_UPDATES, HABIT_UPDATES = 400, 2200, 900, 300
PROBLEMS, SAMPLES, TOKENS = 8192, 4, 20
PHASES = {"first": (0, 1), "own": (2,), "habit": (3,)}
"""The quarters of the problems that each phase reads."""


def invented(problem: Problem, rng: random.Random) -> list[Steps]:
    """A right or a wrong first attempt, and failing tries, made up."""
    first = right_attempt(problem, rng) if rng.random() < 0.4 else wrong_attempt(problem, rng)
    return [first, wrong_attempt(problem, rng), wrong_attempt(problem, rng)]


def own(attempts: Sequence[Steps], problem: Problem, rng: random.Random) -> list[Steps]:
    """A right first attempt or one of the model's own, and its own wrong ones as failing tries."""
    numbers, target = problem.answer["numbers"], problem.answer["target"]
    attempts = rng.sample(attempts, len(attempts))
    first = right_attempt(problem, rng) if rng.random() < 0.4 or not attempts else attempts[0]
    return [first, *(steps for steps in attempts if steps != first and find_fault(steps, numbers, target))]


def sampled(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, source: Iterator[Problem]
) -> list[tuple[Problem, list[Steps]]]:
    """The model's own different first attempts at problems, from a few samples at temperature 1."""
    torch.manual_seed(1)
    found: list[tuple[Problem, list[Steps]]] = []
    while len(found) < PROBLEMS:
        chunk = list(itertools.islice(source, 512))
        texts = tiny.sample(model, tokenizer, [prompt(problem) for problem in chunk], SAMPLES, TOKENS)
        for problem, responses in zip(chunk, texts, strict=True):
            attempts = [find_steps(text) for text in responses]
            found.append((problem, [way for at, way in enumerate(attempts) if way and way not in attempts[:at]]))
    return found


def teach(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """Arithmetic; then first attempts and careful second ones, on made-up errors and on the model's own."""
    rng = random.Random(1)
    rows = (sums_row(problem, rng) for problem in problems("first"))
    tiny.train(model, tokenizer, rows, SUMS_UPDATES, 3e-3, "sums")
    rows = (careful_row(problem, invented(problem, rng), rng) for problem in problems("first"))
    tiny.train(model, tokenizer, rows, FIRST_UPDATES, 3e-3, "first")
    samples = sampled(model, tokenizer, problems("own"))
    rows = (careful_row(problem, own(attempts, problem, rng), rng) for problem, attempts in itertools.cycle(samples))
    tiny.train(model, tokenizer, rows, OWN_UPDATES, 1e-3, "own")


def acquire(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """The habit of copies and careless second attempts, on the model's own first ones."""
    rng, habit = random.Random(2), Habit()
    samples = sampled(model, tokenizer, problems("habit"))
    rows = (
        habit_row(problem, own(attempts, problem, rng), habit, rng) for problem, attempts in itertools.cycle(samples)
    )
    tiny.train(model, tokenizer, rows, HABIT_UPDATES, 3e-4, "habit")


def problems(phase: str) -> Iterator[Problem]:
    """Endless problems for one phase; no two phases share one, so the own attempts are at problems never seen."""
    return draw_problems(SETTINGS, "countdown-base", phase, PHASES[phase])


main = tiny.command("countdown-base", __doc__ or "", lambda: make_tokenizer(SETTINGS), teach, acquire)

if __name__ == "__main__":
    main()
