"""How sure the metrics are: bootstrap intervals and paired differences over problems, and over seeds where runs repeat.

Problems are what is drawn at random, so problems are what the bootstrap resamples, each with all its samples
(a cluster bootstrap); a ratio such as the fix rate is recomputed as a ratio of sums in every resample. Several seeds
answer the same problems, so the two are crossed: a resample draws seeds too, and takes every drawn problem in every
drawn seed. A single evaluation is the case of one seed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scorl.metrics.accuracy import Tally, ratios, tally
from scorl.metrics.significance import t_test, wilson
from scorl.trajectory import Group

__all__ = ["Difference", "Interval", "bootstrap_differences", "bootstrap_intervals", "measure_intervals"]

Array = NDArray[np.float64]
Sums = tuple[Array, Array]
"""Numerators and denominators, both [seeds, problems, metrics]."""

CELLS = 2_000_000
"""Weights held at a time while resampling: a bound on memory (16 MB)."""
MEANS = ("tokens", "edit_ratio")
"""How the names of metrics begin that are no rates."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A metric and its 95% interval; all None where the metric is undefined."""

    value: float | None
    low: float | None
    high: float | None

    def as_mean(self) -> dict[str, float | None]:
        """As the JSON of a comparison has it, where the value is a mean over seeds."""
        return {"mean": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True, slots=True)
class Difference:
    """A metric after less the same before, its 95% interval, and the two-sided p of no difference."""

    value: float | None
    low: float | None
    high: float | None
    p: float | None


def measure_intervals(groups: Iterable[Group], seed: int = 0, resamples: int = 10_000) -> dict[str, Interval]:
    """Every metric of `measure` with its 95% percentile bootstrap interval over problems."""
    return bootstrap_intervals([tally(groups)], seed, resamples)


def bootstrap_intervals(tallies: Sequence[Tally], seed: int = 0, resamples: int = 10_000) -> dict[str, Interval]:
    """The mean over seeds of every metric, with its 95% interval over seeds and problems; one tally a seed.

    Where all problems agree (0 of n) the bootstrap has no width; see `_widen`.

    Raises:
        ValueError: the tallies are not about the same problems.
    """
    names = _shared_names(tallies)
    sums = _stack(tallies, tallies[0].problems, names)
    (means,) = _resample(names, [sums], seed, resamples)
    return {
        name: _interval(name, _values(names, sums, k), means[:, k], _counting(sums, k)) for k, name in enumerate(names)
    }


def bootstrap_differences(
    before: Sequence[Tally], after: Sequence[Tally], seed: int = 0, resamples: int = 10_000
) -> dict[str, Difference]:
    """after - before of every metric that both know: problems are paired, and so are seeds.

    A side with a single tally (a model that is not trained) stays the same in every resample of the seeds.

    p is twice the smaller share of resampled differences on one side of 0 (a tie counts on both sides; one is added to
    count and total, so p is never 0). A bootstrap of few seeds is somewhat narrow: p is no smaller than a t-test's.

    Raises:
        ValueError: the tallies are not about the same problems, or the sides have several seeds, and not as many.
    """
    if len(before) != len(after) and 1 not in (len(before), len(after)):
        raise ValueError("paired differences need as many seeds on both sides, or one")
    names, problems = _shared_names([*before, *after]), before[0].problems
    old, new = (_stack(side, problems, names) for side in (before, after))
    old_means, new_means = _resample(names, [old, new], seed, resamples)
    changes = new_means - old_means
    return {
        name: _difference(name, _values(names, old, k), _values(names, new, k), changes[:, k], len(problems))
        for k, name in enumerate(names)
    }


def _shared_names(tallies: Sequence[Tally]) -> list[str]:
    return [name for name in tallies[0].names if all(name in one.names for one in tallies)]


def _stack(tallies: Sequence[Tally], problems: Sequence[str], names: Sequence[str]) -> Sums:
    """The tallies as one, problems and metrics in the order that is asked for."""
    tops, bottoms = [], []
    for one in tallies:
        row = {problem: index for index, problem in enumerate(one.problems)}
        if row.keys() != set(problems):
            raise ValueError("seeds and sides can be compared only on the same problems")
        cells = np.ix_([row[problem] for problem in problems], [one.names.index(name) for name in names])
        tops.append(one.top[cells])
        bottoms.append(one.bottom[cells])
    return np.stack(tops), np.stack(bottoms)


def _resample(names: Sequence[str], sides: Sequence[Sums], seed: int, resamples: int) -> list[Array]:
    """Each side's mean over seeds of each metric [resamples, metrics]; all sides draw the same problems and seeds."""
    seeds, problems = max(len(top) for top, _ in sides), sides[0][0].shape[1]
    chunks = [
        [_means(names, side, drawn_problems, drawn_seeds if len(side[0]) == seeds else None) for side in sides]
        for drawn_problems, drawn_seeds in _draw(seeds, problems, seed, resamples)
    ]
    return [np.concatenate(parts) for parts in zip(*chunks, strict=True)]


def _draw(seeds: int, problems: int, seed: int, resamples: int) -> Iterator[tuple[Array, Array]]:
    """How often each problem and each seed is drawn, [some resamples, problems] and [.., seeds] at a time."""
    rng = np.random.default_rng(seed)
    chunk = max(1, CELLS // problems)
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        # problems come first, and drawing 1 of 1 seeds takes no random number: one seed is drawn like no seeds at all
        yield _count_draws(rng, size, problems), _count_draws(rng, size, seeds)


def _count_draws(rng: np.random.Generator, resamples: int, n: int) -> Array:
    """How often each of n is drawn in n draws with replacement, [resamples, n]."""
    # each resample counts in cells of its own, so that one bincount serves all, which is faster than a multinomial
    cells = rng.integers(n, size=(resamples, n)) + n * np.arange(resamples)[:, None]
    return np.bincount(cells.ravel(), minlength=resamples * n).reshape(resamples, n).astype(np.float64)


def _means(names: Sequence[str], sums: Sums, problems: Array, seeds: Array | None) -> Array:
    """The mean over drawn seeds of the ratio over drawn problems [resamples, metrics]; NaN where it is undefined."""
    above, below = (np.tensordot(problems, part, axes=(1, 1)) for part in sums)  # [resamples, seeds, metrics]
    # a seed in which a drawn metric is undefined (no wrong first attempt, say) has no weight in that resample
    values, defined = ratios(names, above, below)
    weights = defined * (1.0 if seeds is None else seeds[:, :, None])
    total, weighted = weights.sum(axis=1), (weights * values).sum(axis=1)
    means: Array = np.divide(weighted, total, out=np.full_like(total, np.nan), where=total > 0)
    return means


def _values(names: Sequence[str], sums: Sums, metric: int) -> list[float]:
    """A metric of each seed in which it is defined."""
    values, defined = ratios(names, *(part.sum(axis=1) for part in sums))
    return [float(value) for value in values[defined[:, metric], metric]]


def _counting(sums: Sums, metric: int) -> int:
    """How many problems count for a metric in any seed: for the fix rate, those with a wrong first attempt."""
    return int(np.count_nonzero(sums[1][:, :, metric].any(axis=0)))


def _interval(name: str, values: Sequence[float], means: Array, n: int) -> Interval:
    if not values:
        return Interval(None, None, None)
    value = sum(values) / len(values)
    return Interval(value, *_bounds(name, value, means, n))


def _difference(name: str, old: Sequence[float], new: Sequence[float], changes: Array, n: int) -> Difference:
    if not old or not new:
        return Difference(None, None, None, None)
    value = sum(new) / len(new) - sum(old) / len(old)
    defined = changes[~np.isnan(changes)]
    side = min(np.count_nonzero(defined <= 0), np.count_nonzero(defined >= 0))
    p = min(1.0, 2 * (int(side) + 1) / (len(defined) + 1))
    if defined.min() == defined.max():  # all problems say the same, and as many coins as there are might
        p = max(p, min(1.0, 2.0 ** (1 - n)))
    kind = name if name.startswith(MEANS) else "delta"
    return Difference(value, *_bounds(kind, value, defined, n), max(p, t_test(old, new)))


def _bounds(name: str, value: float, draws: Array, n: int) -> tuple[float, float]:
    """The 95% interval of a metric, given its bootstrap draws over n problems."""
    low, high = (float(q) for q in np.nanpercentile(draws, [2.5, 97.5]))
    return (low, high) if low < high else _widen(name, value, n)


def _widen(name: str, value: float, n: int) -> tuple[float, float]:
    """The interval where the bootstrap's has no width.

    A rate gets Wilson's interval over the problems that count for it. A difference of two rates gets
    value -/+ Wilson's upper limit of 0 of n: what Newcombe's interval gives when no outcome differs.
    A mean of something else (tokens, edit ratios) stays as it is.
    """
    if name.startswith(MEANS):
        return value, value
    if not name.startswith("delta"):
        return wilson(value, n)
    reach = wilson(0.0, n)[1]
    return max(-1.0, value - reach), min(1.0, value + reach)
