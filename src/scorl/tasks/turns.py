"""Turns: what the user says between two attempts, as data to iterate over.

correction("There might be an error ...", attempts=2)       # one turn, an attempt
self_refine(attempts=2)                                     # two turns: a critique, then an attempt
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CRITIQUE", "REWRITE", "Turn", "correction", "self_refine"]

CRITIQUE = (
    "Review your answer above step by step. Say which steps are right and which are wrong, and why. "
    "Do not solve the problem again yet."
)
REWRITE = "Now solve the problem again, taking your review into account, and give the final answer in the same form."


@dataclass(frozen=True, slots=True)
class Turn:
    """A message of the user, and whether what the model answers is an attempt."""

    message: str
    attempt: bool = True


def correction(message: str, attempts: int) -> tuple[Turn, ...]:
    """What stands between `attempts` attempts of intrinsic self-correction: the same message each time."""
    return (Turn(message),) * (attempts - 1)


def self_refine(attempts: int, critique: str = CRITIQUE, rewrite: str = REWRITE) -> tuple[Turn, ...]:
    """Self-Refine (arXiv 2303.17651): the model criticises its attempt, then rewrites it. The wording is ours."""
    return (Turn(critique, attempt=False), Turn(rewrite)) * (attempts - 1)
