"""Scaling at inference (section 6 of the paper): more samples, or fewer of them and each corrected?

At a budget of K responses a problem, K first attempts in parallel vote, or K/2 of them are corrected once and the
second attempts vote, or K/d chains of d attempts do (rounded down). All comes from one set of N samples: what a vote
over k of them gives is averaged over every choice of k exactly (`scorl.metrics.voting`); intervals are bootstrapped
over problems.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any, TypeVar

import numpy as np

from scorl.metrics import Difference, Interval, Tally, bootstrap_differences, bootstrap_intervals
from scorl.metrics.voting import Votes, expect_any, expect_majority
from scorl.trajectory import Group
from scorl.verifiers import Judge, classify_answers

__all__ = ["PARALLEL", "Scaling", "list_budgets", "measure_scaling", "name_arm"]

T = TypeVar("T")
PARALLEL, ANY = "parallel", "any of them right"


@dataclass(frozen=True)
class Scaling:
    """What each arm reaches at each budget; budgets are responses a problem."""

    arms: Mapping[str, Tally]
    """Of each arm, a metric `budget_K` for every K."""
    tokens: Mapping[str, float | None]
    """The mean tokens a response of an arm; None: nobody counted."""

    def intervals(self) -> dict[str, dict[int, Interval]]:
        """The accuracy of each arm at each of its budgets, with its 95% interval over problems."""
        return {name: _by_budget(bootstrap_intervals([tally])) for name, tally in self.arms.items()}

    def differences(self) -> dict[str, dict[int, Difference]]:
        """Each arm of corrected samples less the parallel ones, at the budgets of both, paired by problem."""
        parallel = self.arms[PARALLEL]
        return {
            name: _by_budget(bootstrap_differences([parallel], [tally]))
            for name, tally in self.arms.items()
            if name not in (PARALLEL, ANY)
        }

    def summary(self) -> dict[str, Any]:
        """All of it as JSON; accuracies are fractions, tokens are of a response."""
        arms, differences = self.intervals(), self.differences()
        return {
            "budgets": sorted({budget for values in arms.values() for budget in values}),
            "problems": len(self.arms[PARALLEL].problems),
            "arms": {name: {k: asdict(v) for k, v in values.items()} for name, values in arms.items()},
            "difference": {name: {k: asdict(v) for k, v in values.items()} for name, values in differences.items()},
            "tokens": dict(self.tokens),
        }


def measure_scaling(groups: Sequence[Group], judge: Judge) -> Scaling:
    """The arms that these judged samples allow: `parallel`, one for each further attempt, and pass@K.

    Args:
        groups: as many samples of each problem.
        judge: says which answers are equal.

    Raises:
        ValueError: problems have different numbers of samples or attempts.
    """
    sizes = {(len(group), len(t.attempts)) for group in groups for t in group}
    if len(sizes) != 1:
        raise ValueError(f"every problem needs as many samples and attempts as the others, not {sorted(sizes)}")
    ((samples, depth),) = sizes
    problems = tuple(group[0].problem.id for group in groups)
    arms = {
        name_arm(d): _tally(problems, [expect_majority(v) for v in _votes(groups, d, judge)], samples, d)
        for d in range(1, depth + 1)
    }
    any_right = [expect_any(sum(t.attempts[0].right for t in group), samples) for group in groups]
    tokens = {name_arm(d): _mean_tokens(groups, d) for d in range(1, depth + 1)}
    return Scaling(arms | {ANY: _tally(problems, any_right, samples, 1)}, tokens)


def name_arm(depth: int) -> str:
    """What an arm of so many attempts a chain is called.

    >>> [name_arm(depth) for depth in (1, 2, 3)]
    ['parallel', 'corrected once', 'corrected 2 times']
    """
    return PARALLEL if depth == 1 else "corrected once" if depth == 2 else f"corrected {depth - 1} times"


def list_budgets(samples: int) -> list[int]:
    """1, 2, 4, ... up to the number of samples, which is the last one.

    >>> list_budgets(8), list_budgets(12)
    ([1, 2, 4, 8], [1, 2, 4, 8, 12])
    """
    return sorted({2**n for n in range(samples.bit_length()) if 2**n <= samples} | {samples})


def _votes(groups: Sequence[Group], depth: int, judge: Judge) -> list[Votes]:
    """The votes of attempt `depth`, equal answers as one."""
    attempts = [[t.attempts[depth - 1] for t in group] for group in groups]
    answers = [[a.verdict.answer if a.verdict else None for a in of_problem] for of_problem in attempts]
    classes = classify_answers(judge, [[answer for answer in some if answer is not None] for some in answers])
    votes = []
    for of_problem, some, names in zip(attempts, answers, classes, strict=True):
        named = iter(names)
        votes.append(
            Votes.of([None if answer is None else next(named) for answer in some], [a.right for a in of_problem])
        )
    return votes


def _tally(problems: tuple[str, ...], expected: Sequence[Any], samples: int, depth: int) -> Tally:
    """The budgets that allow for a chain of `depth` attempts, as metrics; what whole chains leave over is lost."""
    budgets = [budget for budget in list_budgets(samples) if budget >= depth]
    top = np.array([[values[budget // depth] for budget in budgets] for values in expected])
    return Tally(problems, tuple(f"budget_{budget}" for budget in budgets), top, np.ones_like(top))


def _mean_tokens(groups: Sequence[Group], depth: int) -> float | None:
    counts = [a.tokens for group in groups for t in group for a in t.attempts[:depth]]
    known = [count for count in counts if count is not None]
    return fmean(known) if len(known) == len(counts) else None


def _by_budget(metrics: Mapping[str, T]) -> dict[int, T]:
    return {int(name.removeprefix("budget_")): metric for name, metric in metrics.items()}
