"""Verifiers: r(y, y*) in {0, 1} from the text of a response; the only place where errors are swallowed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from scorl.trajectory import Problem, Verdict
from scorl.verifiers import countdown, exact, math, program

__all__ = ["TEXT_VERIFIERS", "VERIFIERS", "Judge"]

Judge = Callable[[Sequence[tuple[Problem, str]]], list[Verdict]]
"""Judges (problem, response) pairs, in order; never raises because of what a response says."""

TEXT_VERIFIERS: Mapping[str, Judge] = {"math": math.judge, "exact": exact.judge}
"""The verifiers for which `Problem.answer` is a text, so that any file with a column of answers can name them."""

VERIFIERS: Mapping[str, Judge] = {**TEXT_VERIFIERS, "countdown": countdown.judge, "program": program.judge}
"""All verifiers, by the names that `scorl judge` and recipes use; what each compares with: its `judge`."""
