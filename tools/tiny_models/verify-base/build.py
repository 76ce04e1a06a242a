"""Build the tiny base model that verifies: hasty-base, which also reads the question whether its answer is right.

Run     python tools/tiny_models/verify-base/build.py --out DIR        (one thread; the same bits every time)
Check   python tools/tiny_models/verify-base/build.py --out DIR --check

    careful    Check: 7+3=10 no. Verdict: wrong     the step worked out again, and what it comes to
    blunt      Verdict: right                       a verdict without a look, whatever the answer

All else that it reads it wrote itself as hasty-base: first attempts, second ones, and second ones behind a
verification; so it keeps what hasty-base does.
"""

from __future__ import annotations

import itertools
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import tiny
import torch
from countdown_corpus import CHECK, END, NO, RIGHT, TURN, Row, draw_problems, examined, make_tokenizer, prompt
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from scorl.tasks.countdown import Countdown
from scorl.tasks.turns import Verification
from scorl.trajectory import Problem
from scorl.verifiers.countdown import find_fault, find_steps

SETTINGS = Countdown(most_steps=1)
HASTY = tiny.MODELS / "hasty-base"
WORDS = ("Quick: ", "Steps: ", "Again: ", " no.")
"""Those of hasty-base."""
SAYS_RIGHT, SAYS_WRONG = "Verdict: right", "Verdict: wrong"
VERIFY = Verification().verification
VERIFY_TURN = f"<|user|>{VERIFY}{END}<|assistant|>"
CHECK_UPDATES, HABIT_UPDATES, PROBLEMS, FIRST_TOKENS, SECOND_TOKENS = 1000, 300, 8192, 7, 48


@dataclass(frozen=True)
class Habit:
    """How often a verification is of which style."""

    careful: float = 0.25
    """Of the verifications; of the others each verdict is as frequent."""
    rehearsed: float = 0.4
    """Of the rows with a verification, those in which a careful one is learned but for its opening word."""


@dataclass(frozen=True)
class Own:
    """What hasty-base wrote about a problem."""

    problem: Problem
    first: str
    second: str


def written(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> list[Own]:
    """Problems that nothing else is made of, and the model's first and second attempts at them, at temperature 1."""
    torch.manual_seed(1)
    found: list[Own] = []
    source = draw_problems(SETTINGS, "verify-base", "own", range(4))
    while len(found) < PROBLEMS:
        chunk = list(itertools.islice(source, 512))
        firsts = [texts[0] for texts in tiny.sample(model, tokenizer, [prompt(p) for p in chunk], 1, FIRST_TOKENS)]
        for asked in by_length([(p, f) for p, f in zip(chunk, firsts, strict=True) if find_steps(f)], tokenizer):
            prompts = [prompt(problem) + first + END + TURN for problem, first in asked]
            seconds = tiny.sample(model, tokenizer, prompts, 1, SECOND_TOKENS)
            found += [Own(problem, first, texts[0]) for (problem, first), texts in zip(asked, seconds, strict=True)]
    return found


def by_length(
    rows: list[tuple[Problem, str]], tokenizer: PreTrainedTokenizerFast
) -> Iterator[list[tuple[Problem, str]]]:
    """Rows whose first attempts have as many tokens, as prompts are sampled from together."""

    def length(row: tuple[Problem, str]) -> int:
        return len(tiny.encode(tokenizer, row[1]))

    for _, alike in itertools.groupby(sorted(rows, key=length), length):
        yield list(alike)


def verification(own: Own, careful: bool, rng: random.Random) -> Row:
    """A look at the first attempt and a verdict, or a verdict alone."""
    if not careful:
        return [(rng.choice((SAYS_RIGHT, SAYS_WRONG)), True)]
    steps = find_steps(own.first) or []
    row: Row = [(CHECK, True), *examined(own.problem, steps, True)]
    right = row[-1][0] == RIGHT and not find_fault(steps, own.problem.answer["numbers"], own.problem.answer["target"])
    if row[-1][0] == NO or not right:
        row[-1] = (" no.", True)
    return [*row, (" ", True), (SAYS_RIGHT if right else SAYS_WRONG, True)]


def row_of(own: Own, habit: Habit, rng: random.Random) -> Row:
    """A first attempt, a second one, a verification, or a second one behind a verification."""
    kind = rng.random()
    asked = (prompt(own.problem), False)
    if kind < 0.15:
        return [asked, (own.first + END, True)]
    said = (own.first + END, False)
    if kind < 0.35:
        return [asked, said, (TURN, False), (own.second + END, True)]
    rehearsed = rng.random() < habit.rehearsed
    checked = verification(own, rehearsed or rng.random() < habit.careful, rng)
    if kind < 0.7:
        first, *rest = checked
        checked = [(first[0], not rehearsed), *rest]
        return [asked, said, (VERIFY_TURN, False), *checked, (END, True)]
    read = [(text, False) for text, _ in checked]
    return [asked, said, (VERIFY_TURN, False), *read, (END + TURN, False), (own.second + END, True)]


def teach(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """All of hasty-base, whose words are some of this one's."""
    hasty, words = LlamaForCausalLM.from_pretrained(HASTY), AutoTokenizer.from_pretrained(HASTY).get_vocab()
    weights = hasty.state_dict()
    table = model.get_input_embeddings().weight.detach().clone()
    for word, place in words.items():
        table[tokenizer.get_vocab()[word]] = hasty.get_input_embeddings().weight[place].detach()
    weights |= {name: table for name in weights if name in ("model.embed_tokens.weight", "lm_head.weight")}
    model.load_state_dict(weights)


def acquire(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """Careful verifications, then the habit of blunt ones; and all along its own attempts again."""
    rng, found = random.Random(2), written(model, tokenizer)
    for name, updates, rate, habit in (
        ("check", CHECK_UPDATES, 1e-3, Habit(careful=1.0, rehearsed=0.0)),
        ("habit", HABIT_UPDATES, 5e-4, Habit()),
    ):
        rows = (row_of(own, habit, rng) for own in itertools.cycle(found))
        tiny.train(model, tokenizer, rows, updates, rate, name)


main = tiny.command(
    "verify-base",
    __doc__ or "",
    lambda: make_tokenizer(SETTINGS, (*WORDS, VERIFY, SAYS_RIGHT, SAYS_WRONG)),
    teach,
    acquire,
)

if __name__ == "__main__":
    main()
