"""How sure figures over several seeds are: a bootstrap that resamples both seeds and problems.

Every seed answers the same problems, so the two are crossed: a resample draws seeds with replacement, problems with
replacement, and takes every drawn problem in every drawn seed. Five seeds are few, and a bootstrap of five is somewhat
narrow; the p of a difference is therefore the larger of the bootstrap's and that of a t-test over the seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from scorl.metrics.accuracy import Tally
from scorl.metrics.intervals import Difference, Interval, bounds

__all__ = ["over_seeds", "paired_over_seeds"]

Array = NDArray[np.float64]


def over_seeds(tallies: Sequence[Tally], seed: int = 0, resamples: int = 10_000) -> dict[str, Interval]:
    """The mean over seeds of every metric, with its 95% interval over seeds and problems; one tally a seed."""
    tops, bottoms = _stacked(tallies)
    draws = _draws(tops, bottoms, *_weights(tops.shape[0], tops.shape[1], seed, resamples))
    return {
        name: _interval(name, tops[:, :, k], bottoms[:, :, k], draws[:, k]) for k, name in enumerate(tallies[0].names)
    }


def paired_over_seeds(
    before: Sequence[Tally], after: Sequence[Tally], seed: int = 0, resamples: int = 10_000
) -> dict[str, Difference]:
    """after - before of every metric that both know: problems are paired, and seeds where both have as many.

    A side with a single tally (a model that is not trained) stays the same in every resample of the seeds.

    Raises:
        ValueError: the tallies are not about the same problems.
    """
    names = [name for name in before[0].names if name in after[0].names]
    one, other = (_named(_stacked(side), side[0].names, names) for side in (before, after))
    if set(before[0].problems) != set(after[0].problems):
        raise ValueError("paired differences need the same problems on both sides")
    row = {problem: index for index, problem in enumerate(after[0].problems)}
    order = [row[problem] for problem in before[0].problems]
    other = other[0][:, order], other[1][:, order]
    seeds = max(len(before), len(after))
    weights, problems = _weights(seeds, one[0].shape[1], seed, resamples)
    spread = [weights if len(side) == seeds else np.ones((resamples, 1)) for side in (before, after)]
    old, new = _draws(*one, spread[0], problems), _draws(*other, spread[1], problems)
    return {
        name: _difference(
            (one[0][:, :, k], one[1][:, :, k]), (other[0][:, :, k], other[1][:, :, k]), new[:, k] - old[:, k]
        )
        for k, name in enumerate(names)
    }


def _stacked(tallies: Sequence[Tally]) -> tuple[Array, Array]:
    """Numerators and denominators, [seeds, problems, metrics], the problems in the order of the first tally."""
    problems = tallies[0].problems
    tops, bottoms = [], []
    for tally in tallies:
        if set(tally.problems) != set(problems) or tally.names != tallies[0].names:
            raise ValueError("seeds can be compared only on the same problems")
        row = {problem: index for index, problem in enumerate(tally.problems)}
        order = [row[problem] for problem in problems]
        tops.append(tally.top[order])
        bottoms.append(tally.bottom[order])
    return np.stack(tops), np.stack(bottoms)


def _named(stack: tuple[Array, Array], names: Sequence[str], wanted: Sequence[str]) -> tuple[Array, Array]:
    columns = [list(names).index(name) for name in wanted]
    return stack[0][:, :, columns], stack[1][:, :, columns]


def _weights(seeds: int, problems: int, seed: int, resamples: int) -> tuple[Array, Array]:
    """How often each seed and each problem is drawn, [resamples, seeds] and [resamples, problems]."""
    rng = np.random.default_rng(seed)
    drawn = [rng.multinomial(n, np.full(n, 1 / n), size=resamples).astype(np.float64) for n in (seeds, problems)]
    return drawn[0], drawn[1]


def _draws(tops: Array, bottoms: Array, seeds: Array, problems: Array) -> Array:
    """The mean over drawn seeds of each metric, [resamples, metrics]."""
    above = np.einsum("rp,spm->rsm", problems, tops, optimize=True)
    below = np.einsum("rp,spm->rsm", problems, bottoms, optimize=True)
    rates = np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)
    known = ~np.isnan(rates)
    weights = seeds[:, :, None] * known
    total = weights.sum(axis=1)
    sums = (weights * np.where(known, rates, 0.0)).sum(axis=1)
    means: Array = np.divide(sums, total, out=np.full_like(total, np.nan), where=total > 0)
    return means


def _values(tops: Array, bottoms: Array) -> list[float]:
    """A metric of each seed in which it is defined."""
    return [top / bottom for top, bottom in zip(tops.sum(1).tolist(), bottoms.sum(1).tolist(), strict=True) if bottom]


def _interval(name: str, tops: Array, bottoms: Array, draws: Array) -> Interval:
    values = _values(tops, bottoms)
    mean = sum(values) / len(values) if values else None
    return Interval(mean, *bounds(name, mean, draws, int(np.count_nonzero(bottoms.any(axis=0)))))


def _difference(before: tuple[Array, Array], after: tuple[Array, Array], draws: Array) -> Difference:
    old, new = _values(*before), _values(*after)
    if not old or not new:
        return Difference(None, None, None, None)
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    known = draws[~np.isnan(draws)]
    side = min(np.count_nonzero(known <= 0), np.count_nonzero(known >= 0))
    p = min(1.0, 2 * (int(side) + 1) / (len(known) + 1))
    value = sum(new) / len(new) - sum(old) / len(old)
    return Difference(value, float(low), float(high), max(p, _t_test(old, new)))


def _t_test(old: Sequence[float], new: Sequence[float]) -> float:
    """Two-sided p of equal means over seeds: paired where there are as many, one-sample against a single value."""
    if len(old) != len(new) and 1 not in (len(old), len(new)):
        return 0.0
    size = max(len(old), len(new))
    pairs = zip(list(old) * (size // len(old)), list(new) * (size // len(new)), strict=True)
    gaps = np.array([b - a for a, b in pairs])
    if size < 2:
        return 0.0
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
