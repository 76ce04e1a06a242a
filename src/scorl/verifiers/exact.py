"""Judging by characters: the final answer, or the whole response, is the gold answer."""

from __future__ import annotations

from collections.abc import Sequence

from scorl.trajectory import Problem, Verdict
from scorl.verifiers.extract_answer import extract_answer

__all__ = ["judge", "verify"]


def judge(pairs: Sequence[tuple[Problem, str]]) -> list[Verdict]:
    """The verdicts on responses, in order; `Problem.answer` is the gold answer."""
    return [verify(response, str(problem.answer)) for problem, response in pairs]


def verify(response: str, answer: str) -> Verdict:
    """The verdict on one response; white space around it and around the gold answer does not count."""
    response, gold = response.strip(), answer.strip()
    given = response if response == gold else (extract_answer(response) or response).strip()
    return Verdict(float(given == gold), "correct" if given == gold else "incorrect", "", given)
