"""Exact tests and limits: McNemar's, Fisher's, Student's, Wilson's; no resampling. Holm's for many of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from scorl.metrics.accuracy import tally
from scorl.trajectory import Group

__all__ = ["correct_for_many", "delta_p", "fisher", "mcnemar", "student_tail", "t_test", "wilson"]


def mcnemar(differences: Sequence[int]) -> float:
    """The exact two-sided p of no change, from r2 - r1 of every problem (summed over its samples).

    With one sample a problem this is McNemar's exact test: binomial(1/2) on the discordant pairs. With more
    it is the permutation test that swaps the attempts of whole problems (flips the sign of a problem's sum);
    its distribution is worked out exactly, not sampled.

    >>> mcnemar([1] * 5 + [-1] + [0] * 94)    # 2 * (C(6,0) + C(6,1)) / 2**6
    0.21875
    """
    steps = [abs(d) for d in differences if d]
    chance = np.ones(1)
    for step in steps:
        gap = np.zeros(step)
        chance = (np.concatenate([chance, gap]) + np.concatenate([gap, chance])) / 2
    total = sum(steps)
    reached = np.abs(2 * np.arange(total + 1) - total) >= abs(sum(differences))
    return min(1.0, float(chance[reached].sum()))


def delta_p(groups: Iterable[Group]) -> float | None:
    """`mcnemar` for Delta(t1, t2); None for a single attempt."""
    counts = tally(groups)
    k = counts.names.index("delta")
    return mcnemar([int(d) for d in counts.top[:, k]]) if counts.bottom[:, k].any() else None


def fisher(hits: int, n: int, other_hits: int, other_n: int) -> float:
    """Fisher's exact two-sided p that `hits` of n and `other_hits` of other_n are of one rate.

    Given the total of hits, they fall on either side by the hypergeometric distribution; p is the chance of all tables
    that are no likelier than the one seen (as in R), counted in whole numbers.

    >>> fisher(3, 3, 0, 3)    # 2 of the C(6, 3) = 20 ways to draw the three hits
    0.1
    """
    total = hits + other_hits
    ways = [math.comb(n, k) * math.comb(other_n, total - k) for k in range(total + 1)]
    return sum(w for w in ways if w <= ways[hits]) / sum(ways)


def correct_for_many(ps: Sequence[float]) -> list[float]:
    """Holm's step-down: the p of each of a family of comparisons, so corrected that the chance of any false alarm is
    bounded by the level (Holm 1979).

    >>> correct_for_many([0.02, 0.01, 0.5])    # 2 * 0.02, 3 * 0.01, 1 * 0.5
    [0.04, 0.03, 0.5]
    """
    corrected, reached = [0.0] * len(ps), 0.0
    for rank, k in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        reached = max(reached, min(1.0, (len(ps) - rank) * ps[k]))
        corrected[k] = reached
    return corrected


def wilson(value: float, n: int) -> tuple[float, float]:
    """Wilson's 95% score interval of a rate seen over n independent problems."""
    z = 1.959963984540054
    centre = (value + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(value * (1 - value) / n + z * z / (4 * n * n))
    return max(0.0, round(centre - half, 12)), min(1.0, round(centre + half, 12))


def t_test(old: Sequence[float], new: Sequence[float]) -> float:
    """Two-sided p of equal means over seeds: paired where there are as many, one-sample against a single value.

    0 where it says nothing, with fewer than two seeds or other numbers of them.
    """
    size = max(len(old), len(new))
    if size < 2 or any(len(side) not in (1, size) for side in (old, new)):
        return 0.0
    gaps = np.broadcast_to(np.array(new) - np.array(old), size)
    spread = gaps.std(ddof=1)
    if spread == 0:
        return 0.0 if gaps.mean() else 1.0
    return student_tail(abs(float(gaps.mean() / spread * math.sqrt(size))), size - 1)


def student_tail(t: float, degrees: int) -> float:
    """The two-sided tail of Student's t at `t`, in closed form for whole degrees of freedom.

    >>> round(student_tail(2.776445, 4), 4), round(student_tail(12.7062, 1), 4)
    (0.05, 0.05)
    """
    angle = math.atan(t / math.sqrt(degrees))
    odd = degrees % 2
    term, inside = math.cos(angle) if odd else 1.0, 0.0
    for k in range(2 + odd, degrees + 1, 2):
        inside += term
        term *= math.cos(angle) ** 2 * (k - 1) / k
    return 1 - (2 / math.pi * (angle + math.sin(angle) * inside) if odd else math.sin(angle) * inside)
