"""A guard against verdicts that stand beside other answers: a few answers are judged once more, each alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from scorl.errors import GuardError
from scorl.trajectory import Problem, Verdict
from scorl.verifiers import VERIFIERS, Judge

__all__ = ["check_order"]

LOOKS = 2
"""Pairs of neighbours that must be paid otherwise alone: in one of them a program may be near its time limit."""


def check_order(judge: Judge, pairs: Sequence[tuple[Problem, str]], verdicts: Sequence[Verdict]) -> None:
    """Catches verdicts in another order than their answers.

    Where two neighbours were paid differently, each of them is judged alone: if verdicts were moved, whichever way, one
    of the two gets another. Only scorl's own verifiers are looked at: a reward function may rank a batch, or be a model
    that says one thing today and another tomorrow.

    Raises:
        GuardError: verdicts stand beside other answers.
    """
    if getattr(judge, "func", judge) not in VERIFIERS.values():
        return
    rewards = [verdict.reward for verdict in verdicts]
    said = []
    for one in islice(_find_edges(rewards), LOOKS):
        alone = [judge([pair])[0].reward for pair in pairs[one : one + 2]]
        if alone == rewards[one : one + 2]:
            return
        names = " and ".join(problem.id for problem, _ in pairs[one : one + 2])
        said.append(f"{names}: {rewards[one]:g} and {rewards[one + 1]:g}, alone {alone[0]:g} and {alone[1]:g}")
    if len(said) == LOOKS:
        raise GuardError(
            f"rewards stand beside other answers than those they were given for; at problems {'; at '.join(said)}"
        )


def _find_edges(rewards: Sequence[float]) -> Iterator[int]:
    """Where neighbours were paid differently, no answer in two of the places."""
    place = 0
    while place < len(rewards) - 1:
        differs = rewards[place] != rewards[place + 1]
        if differs:
            yield place
        place += 1 + differs
