"""A guard against rewards that stand beside other answers: a few answers are judged once more, each alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import NamedTuple

from scorl.errors import GuardError
from scorl.trajectory import AttemptText, Group, Problem, Verdict
from scorl.verifiers import VERIFIERS, Judge, program

__all__ = ["check_order"]

LOOKS = 3
"""Pairs of neighbours that are looked at, of those that were paid differently: the first, and each third further on."""
SETTLED = ("correct", "incorrect")
"""What a busy machine does not change."""


class _Paid(NamedTuple):
    """An attempt as it was judged."""

    problem: Problem
    text: AttemptText
    verdict: Verdict


def check_order(judge: Judge, groups: Sequence[Group]) -> None:
    """Catches rewards beside other answers: the judge's verdicts in another order, or what moved them behind it.

    Where two neighbours were paid differently, each of them is judged alone. If all verdicts were moved by one place,
    whichever way, one of the two gets another; in another order of the whole batch, in four steps of five. Where no
    more than one answer gets another verdict, the rest is judged as well, until a second does: an order that is wrong
    is so at two places. Only verifiers that say the same of an answer every time are looked at: programs may draw
    random numbers, and a reward function may rank a batch.

    Raises:
        GuardError: in most of the pairs a verdict is another one, and of two answers at least.
    """
    if judge not in VERIFIERS.values() or judge is program.judge:
        return
    paid = _find_paid(groups)
    edges = _find_edges(paid)
    looked_at = sorted({edges[len(edges) * n // LOOKS] for n in range(LOOKS)}) if edges else []
    pairs = [list(_judge_alone(judge, paid[one : one + 2])) for one in looked_at]
    wrong = [said for pair in pairs for said in pair]
    if not wrong or 2 * sum(map(bool, pairs)) <= len(pairs):
        return
    if len(wrong) == 1:
        again = {place for one in looked_at for place in (one, one + 1)}
        rest = (one for place, one in enumerate(paid) if place not in again and one.verdict.outcome in SETTLED)
        wrong += islice(_judge_alone(judge, rest), 1)
    if len(wrong) > 1:
        raise GuardError(
            f"rewards stand beside other answers than those they were given for; at problems {'; at '.join(wrong)}"
        )


def _find_paid(groups: Sequence[Group]) -> list[_Paid]:
    """The attempts in the order in which they were judged; what branches share was judged once."""
    attempts = {
        id(a): (t.problem, a, number) for group in groups for t in group for number, a in enumerate(t.attempts, 1)
    }
    return [_Paid(p, AttemptText(a, number), a.verdict) for p, a, number in attempts.values() if a.verdict is not None]


def _judge_alone(judge: Judge, several: Iterable[_Paid]) -> Iterable[str]:
    """What is to be said of those that were paid otherwise than each is alone."""
    for problem, text, verdict in several:
        (alone,) = judge([(problem, text)])
        if alone.outcome in SETTLED and alone.reward != verdict.reward:
            yield f"{problem.id}: {verdict.reward:g}, alone {alone.reward:g}"


def _find_edges(paid: Sequence[_Paid]) -> list[int]:
    """The first of every two neighbours that were paid differently, no answer in two of the pairs."""
    edges: list[int] = []
    for place in range(len(paid) - 1):
        one, other = paid[place].verdict, paid[place + 1].verdict
        settled = one.outcome in SETTLED and other.outcome in SETTLED
        if settled and one.reward != other.reward and (not edges or edges[-1] + 1 < place):
            edges.append(place)
    return edges
