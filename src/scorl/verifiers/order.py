"""A guard against verdicts that stand beside other answers: a few answers are judged once more, each alone."""

from __future__ import annotations

from collections.abc import Sequence

from scorl.errors import GuardError
from scorl.trajectory import Problem, Verdict
from scorl.verifiers import VERIFIERS, Judge, program

__all__ = ["check_order"]

LOOKS = 3
"""Pairs of neighbours that are looked at, of those that were paid differently: the first, and each third further on."""
SETTLED = ("correct", "incorrect")
"""What a busy machine does not change."""


def check_order(judge: Judge, pairs: Sequence[tuple[Problem, str]], verdicts: Sequence[Verdict]) -> None:
    """Catches verdicts in another order than their answers.

    Where two neighbours were paid differently, each of them is judged alone. If all verdicts were moved by one place,
    whichever way, one of the two gets another; in another order of the whole batch, in four steps of five. Only
    verifiers that say the same of an answer every time are looked at: programs may draw random numbers, and a reward
    function may rank a batch.

    Raises:
        GuardError: in most of the pairs, and two at least, a verdict is another one.
    """
    if judge not in VERIFIERS.values() or judge is program.judge:
        return
    edges = _find_edges(verdicts)
    looked_at = sorted({edges[len(edges) * n // LOOKS] for n in range(LOOKS)}) if edges else []
    said = []
    for one in looked_at:
        given, alone = verdicts[one : one + 2], [judge([pair])[0] for pair in pairs[one : one + 2]]
        if all(verdict.outcome in SETTLED for verdict in alone) and _rewards(alone) != _rewards(given):
            names = " and ".join(problem.id for problem, _ in pairs[one : one + 2])
            said.append(f"{names}: {_rewards(given)}, alone {_rewards(alone)}")
    if len(said) > 1 and 2 * len(said) > len(looked_at):
        raise GuardError(
            f"rewards stand beside other answers than those they were given for; at problems {'; at '.join(said)}"
        )


def _rewards(verdicts: Sequence[Verdict]) -> str:
    return " and ".join(f"{verdict.reward:g}" for verdict in verdicts)


def _find_edges(verdicts: Sequence[Verdict]) -> list[int]:
    """The first of every two neighbours that were paid differently, no answer in two of the pairs."""
    edges: list[int] = []
    for place in range(len(verdicts) - 1):
        one, other = verdicts[place : place + 2]
        settled = one.outcome in SETTLED and other.outcome in SETTLED
        if settled and one.reward != other.reward and (not edges or edges[-1] + 1 < place):
            edges.append(place)
    return edges
