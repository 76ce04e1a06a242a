"""How sure the metrics are: bootstrap intervals over problems, exact McNemar, paired differences.

Problems are what is drawn at random, so problems are what the bootstrap resamples, each with all its samples
(a cluster bootstrap); a ratio such as the fix rate is recomputed as a ratio of sums in every resample.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scorl.metrics.accuracy import Tally, tally
from scorl.trajectory import Group

__all__ = ["Difference", "Interval", "bounds", "delta_p", "mcnemar", "paired", "wilson", "with_intervals"]

Array = NDArray[np.float64]
CELLS = 2_000_000
"""Weights held at a time while resampling: a bound on memory (16 MB)."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A metric and its 95% interval; all None where the metric is undefined."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Difference:
    """A metric after less the same before, its 95% interval, and the two-sided p of no difference."""

    value: float | None
    low: float | None
    high: float | None
    p: float | None


def with_intervals(groups: Iterable[Group], seed: int = 0, resamples: int = 10_000) -> dict[str, Interval]:
    """Every metric of `measure` with its 95% percentile bootstrap interval over problems.

    Where all problems agree (0 of n) the bootstrap has no width; see `_widen`.
    """
    counts = tally(groups)
    draws = _bootstrap(counts.top, counts.bottom, seed, resamples)
    return {
        name: Interval(value, *bounds(name, value, draws[:, k], int(np.count_nonzero(counts.bottom[:, k]))))
        for k, (name, value) in enumerate(counts.values().items())
    }


def paired(before: Tally, after: Tally, seed: int = 0, resamples: int = 10_000) -> dict[str, Difference]:
    """after - before of every metric that both know, on the same problems, resampled together.

    p is twice the smaller share of resampled differences on one side of 0 (a tie counts on both sides; one is
    added to count and total, so p is never 0).

    Raises:
        ValueError: the two are not about the same problems.
    """
    if set(before.problems) != set(after.problems):
        raise ValueError("paired differences need the same problems before and after")
    names = [name for name in before.names if name in after.names]
    row = {problem: index for index, problem in enumerate(after.problems)}
    rows = [row[problem] for problem in before.problems]
    b, a = [before.names.index(n) for n in names], [after.names.index(n) for n in names]
    top = np.hstack([before.top[:, b], after.top[rows][:, a]])
    bottom = np.hstack([before.bottom[:, b], after.bottom[rows][:, a]])
    draws = _bootstrap(top, bottom, seed, resamples)
    change = draws[:, len(names) :] - draws[:, : len(names)]
    old, new = before.values(), after.values()
    return {n: _difference(n, old[n], new[n], change[:, k], len(rows)) for k, n in enumerate(names)}


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


def wilson(value: float, n: int) -> tuple[float, float]:
    """Wilson's 95% score interval of a rate seen over n independent problems."""
    z = 1.959963984540054
    centre = (value + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(value * (1 - value) / n + z * z / (4 * n * n))
    return max(0.0, round(centre - half, 12)), min(1.0, round(centre + half, 12))


def _bootstrap(top: Array, bottom: Array, seed: int, resamples: int) -> Array:
    """Ratios of resampled sums [resamples, metrics]; NaN where a resample leaves a metric undefined."""
    sums = [(weights @ top, weights @ bottom) for weights in _weights(len(top), resamples, seed)]
    above, below = (np.concatenate(part) for part in zip(*sums, strict=True))
    ratios: Array = np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)
    return ratios


def _weights(problems: int, resamples: int, seed: int) -> Iterator[Array]:
    """How often each problem is drawn in each resample, [some resamples, problems] at a time."""
    rng = np.random.default_rng(seed)
    chunk = max(1, CELLS // problems)
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        cells = rng.integers(problems, size=(size, problems)) + problems * np.arange(size)[:, None]
        yield np.bincount(cells.ravel(), minlength=size * problems).reshape(size, problems).astype(np.float64)


def bounds(name: str, value: float | None, draws: Array, n: int) -> tuple[float | None, float | None]:
    """The 95% interval of a metric, given its bootstrap draws over n problems; None where it is undefined."""
    if value is None:
        return None, None
    low, high = (float(q) for q in np.nanpercentile(draws, [2.5, 97.5]))
    return (low, high) if low < high else _widen(name, value, n)


def _widen(name: str, value: float, n: int) -> tuple[float, float]:
    """The interval where the bootstrap's has no width.

    A rate gets Wilson's interval over the problems that count for it. A difference of two rates gets
    value -/+ Wilson's upper limit of 0 of n: what Newcombe's interval gives when no outcome differs.
    A mean of something else (tokens, edit ratios) stays as it is.
    """
    if name.startswith(("tokens", "edit_ratio")):
        return value, value
    if not name.startswith("delta"):
        return wilson(value, n)
    reach = wilson(0.0, n)[1]
    return max(-1.0, value - reach), min(1.0, value + reach)


def _difference(name: str, old: float | None, new: float | None, draws: Array, n: int) -> Difference:
    if old is None or new is None:
        return Difference(None, None, None, None)
    kind = name if name.startswith("tokens") else "delta"
    known = draws[~np.isnan(draws)]
    side = min(np.count_nonzero(known <= 0), np.count_nonzero(known >= 0))
    p = min(1.0, 2 * (int(side) + 1) / (len(known) + 1))
    return Difference(new - old, *bounds(kind, new - old, known, n), p)
