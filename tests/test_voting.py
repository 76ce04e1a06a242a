"""Votes over K of N samples, against every choice of K."""

from itertools import combinations
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scorl.metrics.voting import Votes, expect_any, expect_majority


def count_votes(answers: tuple[str | None, ...], right: set[str]) -> float:
    """One vote by hand: a tie is shared."""
    votes = {a: answers.count(a) for a in answers if a is not None}
    best = [a for a, n in votes.items() if n == max(votes.values())]
    return fmean(a in right for a in best) if best else 0.0


@given(st.lists(st.sampled_from(["a", "b", "c", "d", None]), min_size=1, max_size=8), st.sets(st.sampled_from("abcd")))
def test_a_vote_is_the_mean_over_every_choice(answers: list[str | None], right: set[str]) -> None:
    expected = expect_majority(Votes.of(answers, [a in right for a in answers]))
    assert len(expected) == len(answers) + 1
    for k in range(len(answers) + 1):
        by_hand = fmean(count_votes(choice, right) for choice in combinations(answers, k))
        assert expected[k] == pytest.approx(by_hand)


def test_three_votes_by_hand() -> None:
    """Answers a a b, a right: one vote 2/3; of two, aa is right and ab twice a tie, 2/3; three give a."""
    assert expect_majority(Votes(((2, True), (1, False)))).tolist() == pytest.approx([0, 2 / 3, 2 / 3, 1])


def test_two_votes_are_as_good_as_one_unless_one_is_blank() -> None:
    assert expect_majority(Votes(((3, True), (5, False))))[2] == pytest.approx(3 / 8)
    assert expect_majority(Votes(((1, True),), blank=1)).tolist() == pytest.approx([0, 0.5, 1])


def test_large_numbers_stay_exact() -> None:
    even = expect_majority(Votes(((64, True), (64, False))))
    assert even[1:] == pytest.approx([0.5] * 128)
    many = expect_majority(Votes(tuple((1, n < 16) for n in range(64))))
    assert many[1:] == pytest.approx([0.25] * 64)


def test_pass_at_k_by_hand() -> None:
    assert expect_any(1, 4).tolist() == pytest.approx([0, 1 / 4, 1 / 2, 3 / 4, 1])
    assert expect_any(0, 3).tolist() == [0, 0, 0, 0]


def test_an_answer_that_is_right_and_wrong_is_two() -> None:
    assert Votes.of(["a", "a", None], [True, False, False]) == Votes(((1, True), (1, False)), blank=1)
