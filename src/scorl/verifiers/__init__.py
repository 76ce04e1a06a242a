"""Verifiers: r(y, y*) in {0, 1} from the text of a response; the only place where errors are swallowed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations

from scorl.trajectory import Problem, Verdict
from scorl.verifiers import countdown, exact, math, program

__all__ = ["TEXT_VERIFIERS", "VERIFIERS", "Judge", "classify_answers"]

Judge = Callable[[Sequence[tuple[Problem, str]]], list[Verdict]]
"""Judges (problem, response) pairs, in order; never raises because of what a response says."""

TEXT_VERIFIERS: Mapping[str, Judge] = {"math": math.judge, "number": math.judge_numbers, "exact": exact.judge}
"""The verifiers for which `Problem.answer` is a text, so that any file with a column of answers can name them."""

VERIFIERS: Mapping[str, Judge] = {**TEXT_VERIFIERS, "countdown": countdown.judge, "program": program.judge}
"""All verifiers, by the names that `scorl judge` and recipes use; what each compares with: its `judge`."""

_MATH: tuple[Judge, ...] = (math.judge, math.judge_numbers)


def classify_answers(judge: Judge, several: Sequence[Sequence[str]]) -> list[list[str]]:
    """Final answers as the first of those that the judge takes for equal, in order; `1/2` and `0.5` are one.

    Args:
        judge: of the task; mathematics alone knows answers as equal that are written in two ways.
        several: the answers to each problem.
    """
    if judge not in _MATH:
        return [list(answers) for answers in several]
    distinct = [list(dict.fromkeys(answers)) for answers in several]
    pairs = {(later, earlier) for names in distinct for earlier, later in combinations(names, 2)}
    asked = sorted(pairs)
    equal = {pair for pair, verdict in zip(asked, math.judge_answers(asked), strict=True) if verdict.reward == 1.0}
    classes = []
    for names, answers in zip(distinct, several, strict=True):
        first: dict[str, str] = {}
        for name in names:
            first[name] = next((one for one in dict.fromkeys(first.values()) if (name, one) in equal), name)
        classes.append([first[answer] for answer in answers])
    return classes
