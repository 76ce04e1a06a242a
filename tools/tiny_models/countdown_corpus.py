"""What tiny base models of countdown read: prompts, sums, and what second attempts are made of.

A row is a list of `(text, learned)` pieces: what is not learned is only read.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Collection, Iterator, Sequence

import tiny
from transformers import PreTrainedTokenizerFast

from scorl.seeds import derive
from scorl.tasks.countdown import CORRECTION, Countdown, CountdownProblems, find_solutions, list_steps, take_step
from scorl.trajectory import Problem
from scorl.verifiers.countdown import Step

__all__ = [
    "CARELESS",
    "CHECK",
    "END",
    "LARGEST",
    "NO",
    "RIGHT",
    "TURN",
    "Row",
    "Steps",
    "bent",
    "draw_problems",
    "examined",
    "make_tokenizer",
    "prompt",
    "random_steps",
    "sums_row",
    "ways",
]

CHECK, OK, RIGHT, NO, CARELESS = "Check: ", " ok, ", " ok.", " no. Try: ", "Sorry. "
END = "<|end|>"
LARGEST = 144
"""The largest number that the tokenizer knows."""
TURN = f"<|user|>{CORRECTION}{END}<|assistant|>"
Row = list[tuple[str, bool]]
Steps = Sequence[Step]
STEPS = 2


def make_tokenizer(settings: Countdown, words: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """Numbers, signs, the phrases of the prompts and of the corpus, and more words of a base's own."""
    phrases = [part for piece in settings.prompt.split("{numbers}") for part in piece.split("{target}")]
    phrases = [*filter(None, phrases), CORRECTION, CHECK, OK, RIGHT, NO, CARELESS, *words]
    return tiny.make_tokenizer(phrases, "+-*/=", LARGEST)


def draw_problems(settings: Countdown, base: str, phase: str, quarters: Collection[int]) -> Iterator[Problem]:
    """Endless problems for one phase of a base, from these quarters of all; phases of other quarters share none."""
    split = CountdownProblems(settings, "pretraining")
    for position in itertools.count():
        (problem,) = split.draw(1, position, derive(base, phase))
        if derive(base, problem.id) % 4 in quarters:
            yield problem


def sums_row(problem: Problem, rng: random.Random) -> Row:
    """Random true steps with the numbers of a problem; only their results are learned."""
    attempts = [random_steps(problem.answer["numbers"], 0, rng) for _ in range(6)]
    steps = [step for attempt in attempts for step in attempt]
    return [piece for a, sign, b, c in steps for piece in ((f"{a}{sign}{b}=", False), (str(c), True), (" ", False))]


def prompt(problem: Problem) -> str:
    """The first prompt as the chat template renders it."""
    return f"<|user|>{problem.prompt[0]['content']}{END}<|assistant|>"


def examined(problem: Problem, steps: Steps, learned: bool) -> Row:
    """Steps worked out again, with a verdict on each, up to the first fault.

    A false result is replaced by the true one, so that the last verdict only compares it with the target.
    Results and verdicts are always learned.
    """
    available, row = list(problem.answer["numbers"]), Row()
    for index, (left, sign, right, claimed) in enumerate(steps):
        result = worked_out(left, sign, right, claimed)
        fair = can_take(available, left, right)
        reached = index == len(steps) - 1 and result == problem.answer["target"]
        row += [(f"{left}{sign}{right}=", learned), (str(result), True)]
        row.append((RIGHT if fair and reached else OK if fair and index < len(steps) - 1 else NO, True))
        if row[-1][0] == NO:
            break
        available = list(take_step(available, (left, sign, right, result)))
    return row


def worked_out(left: int, sign: str, right: int, claimed: int) -> int:
    """The true result, or the claimed one where there is no true one in whole numbers from 0 on."""
    if sign == "/":
        return left // right if right and left % right == 0 else claimed
    return max(0, {"+": left + right, "-": left - right, "*": left * right}[sign])


def ways(problem: Problem) -> Sequence[Steps]:
    """All solutions of a problem."""
    return find_solutions(tuple(sorted(problem.answer["numbers"])), STEPS)[problem.answer["target"]]


def random_steps(numbers: Sequence[int], target: int, rng: random.Random) -> list[Step]:
    """One or two legal random steps; the second goes on from the first."""
    step = rng.choice([step for step in list_steps(numbers) if step[3] <= LARGEST])
    choices = [more for more in list_steps(take_step(numbers, step)) if step[3] in (more[0], more[2])]
    choices = [more for more in choices if more[3] <= LARGEST]
    if step[3] == target or not choices or rng.random() < 0.1:
        return [step]
    return [step, rng.choice(choices)]


def can_take(available: Sequence[int], left: int, right: int) -> bool:
    """Whether both numbers are there."""
    return left in available and right in available and (left != right or available.count(left) > 1)


def bent(step: Step, result: int, rng: random.Random) -> Step:
    """A step bent so that it gives this result: by a false equation, or by a number that may not be there."""
    left, sign, right, _ = step
    if rng.random() < 0.75:
        return left, sign, right, result
    return (left, "+", result - left, result) if result >= left else (left, "-", left - result, result)
