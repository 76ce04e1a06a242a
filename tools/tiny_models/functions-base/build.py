"""Build the tiny base model for functions: tokenizer, chat template, pre-training, habit.

Run     python tools/tiny_models/functions-base/build.py --out DIR        (one thread; the same bits every time)
Check   python tools/tiny_models/functions-base/build.py --out DIR --check
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
from corpus import (
    CARELESS,
    CHECK,
    DEF,
    FIRSTS,
    LARGEST,
    NO,
    OK,
    RIGHT,
    Asked,
    Habit,
    careful_row,
    find_form,
    first_row,
    habit_row,
    right,
    wrong_attempt,
)
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from scorl.seeds import derive
from scorl.tasks.functions import CORRECTION, INPUTS, Form, FunctionProblems, Functions, make_problem

SETTINGS = Functions()
BOTH_UPDATES, OWN_UPDATES, AGAIN_UPDATES, HABIT_UPDATES = 1200, 200, 1000, 300
PROBLEMS, SAMPLES = 4096, 4
FIRST, REHEARSED = 0.35, 0.05
"""How many rows are first attempts alone: in the phase `both`, and in `again` and `habit`."""
TOKENS = 6
"""The longest first attempt."""


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Numbers, signs, the calls `f(1)=`, the first operations, and the phrases of the prompts."""
    calls = [f"f({x})=" for x in INPUTS]
    phrases = [*filter(None, SETTINGS.prompt.split("{examples}")), CORRECTION, DEF, CHECK, OK, RIGHT, NO, CARELESS]
    return tiny.make_tokenizer([*phrases, ": ", *calls, *FIRSTS], "+-=", LARGEST)


def asked_in(phase: str) -> Iterator[Asked]:
    """Endless problems for one phase."""
    split, seed = FunctionProblems(SETTINGS, "pretraining"), derive("functions-base", phase)
    for position in itertools.count():
        form, shown, hidden = split.choose("draw", seed, position)
        (message,) = make_problem(SETTINGS, form, shown, hidden).prompt
        yield Asked(f"<|user|>{message['content']}<|end|><|assistant|>", form, tuple((x, form(x)) for x in shown))


def invented(asked: Asked, rng: random.Random) -> list[Form]:
    """A right or a wrong first attempt, and failing tries, made up."""
    first = asked.form if rng.random() < 0.4 else wrong_attempt(asked, rng)
    return [first, wrong_attempt(asked, rng), wrong_attempt(asked, rng)]


def own(attempts: Sequence[Form], asked: Asked, rng: random.Random) -> list[Form]:
    """A right first attempt or one of the model's own wrong ones, and more of these as failing tries."""
    wrong = [form for form in rng.sample(attempts, len(attempts)) if not right(form, asked)]
    return [asked.form, *wrong] if rng.random() < 0.4 or not wrong else wrong


def sampled(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, phase: str) -> list[tuple[Asked, list[Form]]]:
    """Problems, and the model's own different first attempts at them, from a few samples at temperature 1."""
    torch.manual_seed(1)
    found: list[tuple[Asked, list[Form]]] = []
    source = asked_in(phase)
    while len(found) < PROBLEMS:
        chunk = list(itertools.islice(source, 512))
        texts = tiny.sample(model, tokenizer, [asked.prompt for asked in chunk], SAMPLES, TOKENS)
        for asked, responses in zip(chunk, texts, strict=True):
            forms = dict.fromkeys(find_form(text) for text in responses)
            found.append((asked, [form for form in forms if form]))
    return found


def teach(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """First attempts, and careful second ones on made-up errors; then careful ones on the model's own errors."""
    rng = random.Random(1)
    rows = (
        first_row(asked) if rng.random() < FIRST else careful_row(asked, invented(asked, rng), rng)
        for asked in asked_in("both")
    )
    tiny.train(model, tokenizer, rows, BOTH_UPDATES, 3e-3, "both")
    samples = sampled(model, tokenizer, "own")
    rows = (careful_row(asked, own(attempts, asked, rng), rng) for asked, attempts in itertools.cycle(samples))
    tiny.train(model, tokenizer, rows, OWN_UPDATES, 1e-3, "own")
    again(model, tokenizer)


def again(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """Careful second attempts on what the model answers by now, until it works them out well."""
    rng = random.Random(3)
    samples = sampled(model, tokenizer, "again")
    rows = (
        first_row(asked) if rng.random() < REHEARSED else careful_row(asked, own(attempts, asked, rng), rng)
        for asked, attempts in itertools.cycle(samples)
    )
    tiny.train(model, tokenizer, rows, AGAIN_UPDATES, 2e-3, "again")


def acquire(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """The habit of copies and careless second attempts, on the model's own first ones."""
    rng, habit = random.Random(2), Habit()
    samples = sampled(model, tokenizer, "habit")
    rows = (
        first_row(asked) if rng.random() < REHEARSED else habit_row(asked, own(attempts, asked, rng), habit, rng)
        for asked, attempts in itertools.cycle(samples)
    )
    tiny.train(model, tokenizer, rows, HABIT_UPDATES, 5e-4, "habit")


main = tiny.command("functions-base", __doc__ or "", make_tokenizer, teach, acquire)

if __name__ == "__main__":
    main()
