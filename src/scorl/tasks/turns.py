"""Turns: what the user says between two attempts, as data to iterate over.

Correction()("There might be an error ...", attempts=2)       # one turn, an attempt
SelfRefine()(..., attempts=2)                                 # two turns: a critique, then an attempt
Verification()(..., attempts=2)                               # two turns: a verification, then an attempt
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from scorl.trajectory import Problem, Role

__all__ = ["TURNS", "Correction", "SelfRefine", "Turn", "Turns", "Verification", "number_responses", "read_claim"]


JUDGEMENT = r"(right|correct|wrong|incorrect)\b"
NEGATED = r"(?:(\bnot|\bnever|n['’]t)\s+(?:(?:quite|entirely|fully|completely|really|the|a|be)\s+){0,2})?"
VERDICT = re.compile(rf"\bverdict\W{{0,5}}{NEGATED}\b{JUDGEMENT}")
NAMES = r"(?:final\s+)?(?:answer|solution|result|value|number|sum|total|one)"
OTHER = rf"-|\s+{NAMES}\s*(?:[:=]|\b(?:is|was|would|should)\b)"
OPINION = re.compile(rf"{NEGATED}\b{JUDGEMENT}(?!{OTHER})")
"""A judgement in passing; that of "the correct answer is 12" and "the right-hand side" is none of the answer before."""


def read_claim(text: str) -> bool | None:
    """What a verification says of the answer before it: that it is right, that it is wrong, or nothing of the kind.

    Its last `Verdict:` counts, and where there is none its last judgement.

    >>> [read_claim(t) for t in ("It seems wrong. Verdict: right", "That isn't quite correct.", "Let me see")]
    [True, False, None]
    """
    said = text.lower()
    claims = VERDICT.findall(said) or OPINION.findall(said)
    if not claims:
        return None
    negated, word = claims[-1]
    return (word in ("right", "correct")) != bool(negated)


@dataclass(frozen=True, slots=True)
class Turn:
    """A message of the user, and what the model's response to it is."""

    message: str | None
    """What it says; None: the problem once more, in its own words."""
    role: Role = "attempt"
    claim: Callable[[str], bool | None] = read_claim
    """Reads a verification; see `read_claim`."""

    def ask(self, problem: Problem) -> str:
        """What is said about a problem."""
        return problem.prompt[-1]["content"] if self.message is None else self.message


def number_responses(turns: Sequence[Turn]) -> list[int]:
    """The attempt that each response is or leads to, from 1: a critique of attempt 1 counts with attempt 2.

    >>> number_responses(SelfRefine()("", attempts=3))
    [1, 2, 2, 3, 3]
    """
    before = (sum(turn.role == "attempt" for turn in turns[:place]) for place in range(len(turns)))
    return [1, *(2 + attempts for attempts in before)]


class Turns(Protocol):
    """What is said between attempts, given the task's own correction message and the number of attempts."""

    def __call__(self, correction: str, attempts: int) -> tuple[Turn, ...]:
        """The turns behind the first attempt."""
        ...


@dataclass(frozen=True)
class Correction:
    """Say that there might be an error, the same each time: intrinsic self-correction."""

    correction: str | None = None
    """The correction message; null: the task's own wording."""

    def __call__(self, correction: str, attempts: int) -> tuple[Turn, ...]:
        """One turn for every attempt after the first."""
        return (Turn(correction if self.correction is None else self.correction),) * (attempts - 1)


@dataclass(frozen=True)
class SelfRefine:
    """Ask for a critique, then for another attempt: Self-Refine (arXiv 2303.17651), in the words of 2303.17491."""

    critique: str = "Review your previous answer and find problems with your answer."
    """What asks for the critique."""
    rewrite: str = "Based on the problems you found, improve your answer."
    """What asks for the attempt after the critique."""

    def __call__(self, correction: str, attempts: int) -> tuple[Turn, ...]:
        """Two turns for every attempt after the first."""
        return (Turn(self.critique, role="critique"), Turn(self.rewrite)) * (attempts - 1)


@dataclass(frozen=True)
class Verification:
    """Ask whether the answer is right, then for another attempt. The wording is ours.

    The other attempt is always sampled, though at inference a verification that says `right` ends the conversation.
    """

    verification: str = (
        "Check your answer above step by step. Then end with one line that says either "
        "'Verdict: right' or 'Verdict: wrong'."
    )
    """What asks for the verification; the last `right`, `correct`, `wrong` or `incorrect` in the response counts."""
    correction: str | None = None
    """What asks for the attempt after it; null: the task's own correction message."""

    def __call__(self, correction: str, attempts: int) -> tuple[Turn, ...]:
        """Two turns for every attempt after the first."""
        again = Turn(correction if self.correction is None else self.correction)
        return (Turn(self.verification, role="verification"), again) * (attempts - 1)


TURNS: dict[str, type[Correction | SelfRefine | Verification]] = {
    "correction": Correction,
    "self_refine": SelfRefine,
    "verification": Verification,
}
"""The turns by the names that recipes use."""
