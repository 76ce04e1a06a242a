"""Intervals and tests of significance, against numbers worked by hand, enumeration and simulation."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_metrics import groups, trajectory

from scorl import metrics
from scorl.metrics.significance import correct_for_many, fisher, student_tail


@pytest.mark.parametrize(
    ("fixed", "broken", "p"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),  # 2 * 1/2
        (5, 0, 2 / 32),
        (5, 1, 2 * (1 + 6) / 64),
        (1, 5, 2 * (1 + 6) / 64),
        (3, 3, 1.0),
        (8, 2, 2 * (1 + 10 + 45) / 1024),
    ],
)
def test_mcnemar_by_hand(fixed: int, broken: int, p: float) -> None:
    assert metrics.mcnemar([1] * fixed + [-1] * broken + [0] * 7) == pytest.approx(p)


def test_mcnemar_of_the_papers_headline() -> None:
    # MATH500: 5.8% fixed is 29 problems, 1.4% broken is 7.
    p = 2 * sum(math.comb(36, k) for k in range(8)) / 2**36
    assert metrics.mcnemar([1] * 29 + [-1] * 7) == pytest.approx(p)
    assert p == pytest.approx(3e-4, rel=0.2)


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=8))
def test_with_several_samples_it_flips_the_signs_of_problems(differences: list[int]) -> None:
    signs = list(product((-1, 1), repeat=len(differences)))
    flipped = [abs(sum(s * d for s, d in zip(row, differences, strict=True))) for row in signs]
    p = sum(value >= abs(sum(differences)) for value in flipped) / len(signs)
    assert metrics.mcnemar(differences) == pytest.approx(p)


@pytest.mark.parametrize(
    ("table", "p"),
    [
        ((3, 4, 1, 4), (1 + 16 + 16 + 1) / 70),  # the lady tasting tea: C(4, k) C(4, 4 - k) = 1, 16, 36, 16, 1
        ((3, 3, 0, 3), 2 / 20),
        ((1, 1, 0, 4), 1 / 5),  # one side alone is as unlikely: not twice a tail
        ((12, 12, 3, 12), 2 * 220 / math.comb(24, 15)),
        ((2, 4, 2, 4), 1.0),
        ((0, 5, 0, 3), 1.0),
        ((5, 5, 3, 3), 1.0),
    ],
)
def test_fisher_by_hand(table: tuple[int, int, int, int], p: float) -> None:
    assert fisher(*table) == pytest.approx(p)
    assert fisher(*table[2:], *table[:2]) == pytest.approx(p)


@pytest.mark.parametrize(
    ("ps", "corrected"),
    [
        ([], []),
        ([0.03], [0.03]),
        ([0.01, 0.04, 0.03, 0.005], [3 * 0.01, 2 * 0.03, 2 * 0.03, 4 * 0.005]),  # none below one that was smaller
        ([0.7, 0.6], [1.0, 1.0]),
        ([0.02, 0.02], [0.04, 0.04]),
    ],
)
def test_holm_by_hand(ps: list[float], corrected: list[float]) -> None:
    assert correct_for_many(ps) == pytest.approx(corrected)


def test_delta_p_sums_over_samples() -> None:
    several = [[trajectory(name, r, sample=s) for s, r in enumerate(("01", "01"))] for name in "abc"]
    assert metrics.delta_p(several) == pytest.approx(2 / 8)  # three problems of one sign, not six trajectories
    assert metrics.delta_p(groups("0", "1")) is None


def test_wilson_by_hand() -> None:
    z2 = 1.959963984540054**2
    assert metrics.wilson(0.0, 10) == pytest.approx((0.0, z2 / (10 + z2)))
    assert metrics.wilson(1.0, 10) == pytest.approx((10 / (10 + z2), 1.0))
    assert metrics.wilson(0.5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)


def test_the_interval_of_a_rate_is_near_the_normal_one() -> None:
    interval = metrics.measure_intervals(groups(*["01"] * 60, *["00"] * 140))["accuracy_t2"]
    half = 1.96 * math.sqrt(0.3 * 0.7 / 200)
    assert interval.value == 0.3
    assert interval.low == pytest.approx(0.3 - half, abs=0.01)
    assert interval.high == pytest.approx(0.3 + half, abs=0.01)


def test_intervals_depend_on_the_seed_alone() -> None:
    several = groups("01", "11", "00", "10", "00")
    assert metrics.measure_intervals(several, resamples=500) == metrics.measure_intervals(several, resamples=500)
    more = groups(*["01", "11", "00"] * 30)
    assert metrics.measure_intervals(more, 0, 500)["delta"] != metrics.measure_intervals(more, 1, 500)["delta"]


def test_samples_of_one_problem_do_not_count_as_problems() -> None:
    copied = [[trajectory(str(k), r, sample=s) for s in range(8)] for k, r in enumerate(["01", "00"] * 20)]
    once = metrics.measure_intervals(groups(*["01", "00"] * 20))["accuracy_t2"]
    assert metrics.measure_intervals(copied)["accuracy_t2"] == once


def test_where_all_outcomes_agree_the_interval_still_has_a_width() -> None:
    intervals = metrics.measure_intervals(groups(*["00"] * 50), resamples=200)
    high = metrics.wilson(0.0, 50)[1]
    assert intervals["accuracy_t1"] == metrics.Interval(0.0, 0.0, high)
    assert intervals["correct_to_incorrect"] == metrics.Interval(0.0, 0.0, high)
    assert intervals["delta"] == metrics.Interval(0.0, -high, high)
    assert intervals["break_rate"] == metrics.Interval(None, None, None)
    assert intervals["tokens_t1"] == metrics.Interval(8.0, 8.0, 8.0)


def test_wilson_counts_the_problems_that_the_condition_leaves() -> None:
    intervals = metrics.measure_intervals(groups(*["00"] * 40, *["11"] * 10), resamples=200)
    assert intervals["break_rate"] == metrics.Interval(0.0, 0.0, metrics.wilson(0.0, 10)[1])


def test_nineteen_of_twenty_intervals_hold_the_truth() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(150):
        outcomes = rng.choice(["00", "01", "10", "11"], size=60, p=[0.3, 0.25, 0.1, 0.35])
        delta = metrics.measure_intervals(groups(*outcomes), seed, resamples=400)["delta"]
        assert delta.low is not None
        assert delta.high is not None
        covered += delta.low <= 0.15 <= delta.high
    assert 0.90 <= covered / 150 <= 0.99


def test_paired_differences_are_narrower_than_unpaired_ones() -> None:
    before = metrics.tally(groups(*["00"] * 50, *["11"] * 40, *["10"] * 10))
    after = metrics.tally(groups(*["00"] * 40, *["01"] * 10, *["11"] * 50))
    change = metrics.bootstrap_differences([before], [after])["accuracy_t2"]
    assert change.value == pytest.approx(0.2)
    assert change.low is not None
    assert change.high is not None
    assert change.p is not None
    half = 1.96 * math.sqrt((0.2 - 0.2**2) / 100)  # 20 problems gained, none lost
    assert change.low == pytest.approx(0.2 - half, abs=0.02)
    assert change.high == pytest.approx(0.2 + half, abs=0.02)
    assert change.p < 0.001


def test_no_difference_is_no_difference() -> None:
    same = metrics.tally(groups(*["00", "01", "11", "10"] * 10))
    change = metrics.bootstrap_differences([same], [same], resamples=200)["delta"]
    reach = metrics.wilson(0.0, 40)[1]
    assert change == metrics.Difference(0.0, -reach, reach, 1.0)


def test_pairs_are_found_by_problem_not_by_place() -> None:
    before = metrics.tally_outcomes({"a": "01", "b": "10", "c": "11", "d": "00"})
    after = metrics.tally_outcomes({"d": "00", "c": "11", "b": "10", "a": "01"})
    assert metrics.bootstrap_differences([before], [after], resamples=200)["accuracy_t1"].p == 1.0
    with pytest.raises(ValueError, match="same problems"):
        metrics.bootstrap_differences([before], [metrics.tally_outcomes({"a": "01"})])


def words(pattern: str) -> metrics.Tally:
    return metrics.tally_outcomes({f"p{i}": word for i, word in enumerate(pattern.split())})


def test_means_over_seeds_by_hand() -> None:
    intervals = metrics.bootstrap_intervals([words("01 11 00 10"), words("11 11 00 00")])
    assert intervals["accuracy_t1"].value == pytest.approx((2 / 4 + 2 / 4) / 2)
    assert intervals["accuracy_t2"].value == pytest.approx((2 / 4 + 2 / 4) / 2)
    assert intervals["fix_rate"].value == pytest.approx((1 / 2 + 0 / 2) / 2)
    assert intervals["accuracy_t2"].low <= 0.5 <= intervals["accuracy_t2"].high


def test_seeds_that_agree_are_as_sure_as_one() -> None:
    one = words("01 11 00 10 " * 20)
    for name, interval in metrics.bootstrap_intervals([one] * 3).items():
        alone = metrics.bootstrap_intervals([one])[name]
        assert (interval.low, interval.high) == pytest.approx((alone.low, alone.high)), name


def test_the_interval_knows_seeds_and_problems() -> None:
    rng = np.random.default_rng(0)
    problems = rng.random(400) < 0.5

    def seeds(spread: float) -> list[metrics.Tally]:
        rates = 0.5 + spread * np.array([-1, -0.5, 0, 0.5, 1])
        return [words(" ".join("11" if r < rate else "00" for r in rng.random(400))) for rate in rates]

    narrow, wide = (metrics.bootstrap_intervals(seeds(s))["accuracy_t1"] for s in (0.0, 0.2))
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)
    same = [words(" ".join("11" if p else "00" for p in problems))] * 5  # seeds agree: problems alone vary
    interval = metrics.bootstrap_intervals(same)["accuracy_t1"]
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * 0.5 / 20, rel=0.1)


def test_a_rate_that_never_varies_is_not_certain() -> None:
    intervals = metrics.bootstrap_intervals([words("01 " * 10), words("01 " * 10)])
    low, high = metrics.wilson(1.0, 10)
    assert (intervals["accuracy_t2"].low, intervals["accuracy_t2"].high) == (low, high)
    assert intervals["accuracy_t1"].low == 0
    assert intervals["accuracy_t1"].high == pytest.approx(1 - low)


def test_paired_differences_over_seeds() -> None:
    base = [words("01 11 00 10 " * 50)]
    better = [words("01 11 01 11 " * 50)] * 5
    change = metrics.bootstrap_differences(base, better)["accuracy_t2"]
    assert change.value == pytest.approx(0.5)
    assert change.p < 0.001
    assert metrics.bootstrap_differences(better, better)["delta"].p == 1.0
    with pytest.raises(ValueError, match="same problems"):
        metrics.bootstrap_differences(base, [words("01 11")])
    with pytest.raises(ValueError, match="as many seeds"):
        metrics.bootstrap_differences(better[:2], better)


def test_a_difference_that_never_varies_is_not_certain() -> None:
    change = metrics.bootstrap_differences([words("11 " * 40)] * 2, [words("01 " * 40)] * 2)
    reach = metrics.wilson(0.0, 40)[1]
    assert change["accuracy_t1"].low == -1.0
    assert change["accuracy_t1"].high == pytest.approx(-1.0 + reach)
    assert (change["accuracy_t2"].low, change["accuracy_t2"].high) == (-reach, reach)


def test_the_p_of_few_seeds_is_no_smaller_than_a_t_test() -> None:
    one = [words("11 " * 50 + "00 " * 50)] * 3
    other = [words("11 " * n + "00 " * (100 - n)) for n in (50, 60, 55)]
    t = 5 / (5 / 3**0.5)
    assert metrics.bootstrap_differences(one, other)["accuracy_t1"].p >= student_tail(t, 2) - 1e-9


@pytest.mark.parametrize(("t", "degrees"), [(12.7062, 1), (4.302653, 2), (2.776445, 4), (2.570582, 5), (2.228139, 10)])
def test_students_tail_against_its_table(t: float, degrees: int) -> None:
    assert student_tail(t, degrees) == pytest.approx(0.05, abs=1e-5)


def test_the_ceiling_is_made_of_its_rates_in_every_resample() -> None:
    words = {str(n): word for n, word in enumerate(["01", "00", "00", "11", "11", "10"] * 10)}
    interval = metrics.bootstrap_intervals([metrics.tally_outcomes(words)])["ceiling"]
    assert interval.value == pytest.approx(0.5)
    assert interval.low is not None
    assert interval.high is not None
    assert 0.2 < interval.low < 0.4 < 0.6 < interval.high < 0.8
    steady = metrics.bootstrap_intervals([metrics.tally_outcomes({"a": "01", "b": "11"})])["ceiling"]
    assert (steady.value, steady.high) == (1.0, 1.0)


def test_a_difference_without_spread_is_as_sure_as_its_problems_are_many() -> None:
    """The bootstrap cannot say: all problems agree. A sign test of n problems can: 2 / 2^n."""
    for n, p in ((1, 1.0), (4, 0.125)):
        old, new = ({str(k): word for k in range(n)} for word in ("00", "01"))
        difference = metrics.bootstrap_differences([metrics.tally_outcomes(old)], [metrics.tally_outcomes(new)])[
            "delta"
        ]
        assert difference.p == pytest.approx(p)
