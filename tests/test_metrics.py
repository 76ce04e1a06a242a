"""The metrics of self-correction, worked by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scorl import metrics
from scorl.trajectory import Finish, Group, Problem, Response, Trajectory, Verdict, user


def attempt(turn: int, right: bool, text: str = "", answer: str | None = None, finish: Finish = "stop") -> Response:
    ids = tuple(range(len(text)))
    return Response((1,), ids, (0.0,) * len(ids), text, finish, Verdict(float(right), "", answer=answer))


def trajectory(name: str, rights: str, texts: tuple[str, ...] = (), sample: int = 0) -> Trajectory:
    """One digit an attempt: `01` is wrong, then right."""
    texts = texts or tuple(f"answer {digit}" for digit in rights)
    attempts = tuple(attempt(t, digit == "1", texts[t]) for t, digit in enumerate(rights))
    return Trajectory(Problem(name, (user("?"),)), sample, attempts)


def groups(*rights: str) -> list[Group]:
    return [[trajectory(str(k), r)] for k, r in enumerate(rights)]


def test_five_problems_by_hand() -> None:
    measured = metrics.measure(groups("01", "01", "10", "11", "00"))
    assert measured["accuracy_t1"] == 2 / 5
    assert measured["accuracy_t2"] == 3 / 5
    assert measured["delta"] == 1 / 5
    assert measured["incorrect_to_correct"] == 2 / 5
    assert measured["correct_to_incorrect"] == 1 / 5
    assert measured["fix_rate"] == 2 / 3
    assert (measured["break_rate"], measured["keep_rate"]) == (1 / 2, 1 / 2)
    assert measured["ceiling"] == pytest.approx((2 / 3) / (2 / 3 + 1 / 2))
    assert measured["answer_changed"] == 3 / 5
    assert measured["truncated"] == 0
    assert measured["tokens_t1"] == measured["tokens_t2"] == len("answer 0")
    assert measured["edit_ratio"] == pytest.approx(3 / 5 * 2 / 16)


@given(st.lists(st.lists(st.sampled_from(["00", "01", "10", "11"]), min_size=1, max_size=4), min_size=1, max_size=20))
def test_delta_is_what_was_fixed_less_what_was_broken(rights: list[list[str]]) -> None:
    several = [[trajectory(str(k), r, sample=s) for s, r in enumerate(row)] for k, row in enumerate(rights)]
    m = {name: value or 0.0 for name, value in metrics.measure(several).items()}
    assert m["delta"] == pytest.approx(m["accuracy_t2"] - m["accuracy_t1"])
    assert m["delta"] == pytest.approx(m["incorrect_to_correct"] - m["correct_to_incorrect"])
    assert m["incorrect_to_correct"] == pytest.approx(m["fix_rate"] * (1 - m["accuracy_t1"]))
    assert m["correct_to_incorrect"] == pytest.approx(m["break_rate"] * m["accuracy_t1"])


def test_conditional_rates_are_undefined_where_their_condition_never_holds() -> None:
    assert metrics.measure(groups("11", "10"))["fix_rate"] is None
    assert metrics.measure(groups("00", "01"))["break_rate"] is None
    assert metrics.measure(groups("00", "01"))["ceiling"] is None
    assert metrics.measure(groups("00", "11"))["ceiling"] is None  # nothing moves
    assert metrics.measure(groups("00", "10"))["ceiling"] == 0


@given(st.lists(st.sampled_from(["00", "01", "10", "11"]), min_size=1, max_size=20))
def test_correcting_pays_below_the_ceiling(rights: list[str]) -> None:
    """Delta > 0 iff @t1 < f / (f + 1 - k) iff f / (1 - k) > @t1 / (1 - @t1), the test of arXiv 2604.22273."""
    m = metrics.measure(groups(*rights))
    if (ceiling := m["ceiling"]) is not None:
        difference = ceiling - (m["accuracy_t1"] or 0)
        assert (difference > 1e-12) == ((m["delta"] or 0) > 0)


def test_two_samples_beside_two_attempts() -> None:
    """Of r r w and a blank: six pairs; a right one in all but w-blank; votes: rr, and twice r-blank, and twice half."""
    samples = [
        Trajectory(Problem("a", (user("?"),)), k, (attempt(0, right, answer=answer),))
        for k, (right, answer) in enumerate([(True, "4"), (True, "4"), (False, "5"), (False, None)])
    ]
    measured = metrics.measure([samples])
    assert measured["pass_2"] == pytest.approx(5 / 6)
    assert measured["majority_2"] == pytest.approx((1 + 2 + 2 / 2) / 6)
    assert "pass_2" not in metrics.measure([samples[:1]])


def test_branches_count_their_first_attempt_once_whichever_are_left() -> None:
    branches = [replace(trajectory("a", "10", sample=s), branch=b) for s, b in ((0, 1), (1, 0), (1, 1))]
    branches[0] = replace(branches[0], responses=(attempt(0, False, answer="5"), *branches[0].responses[1:]))
    measured = metrics.measure([branches])
    assert (measured["pass_2"], measured["majority_2"]) == (1.0, 0.5)


def test_a_single_attempt_leaves_the_pair_undefined() -> None:
    single, pair = metrics.measure(groups("1", "0")), metrics.measure(groups("11", "00"))
    assert single.keys() == pair.keys()
    assert (single["accuracy_t1"], single["truncated"]) == (0.5, 0)
    undefined = {"accuracy_t2", "tokens_t2", "delta", "incorrect_to_correct", "correct_to_incorrect"}
    undefined |= {"fix_rate", "keep_rate", "break_rate", "ceiling", "answer_changed", "edit_ratio"}
    assert {name for name, value in single.items() if value is None} == undefined


def test_a_third_attempt_adds_its_accuracy_and_its_step() -> None:
    measured = metrics.measure(groups("001", "011", "110", "101"))
    assert [measured[f"accuracy_t{t}"] for t in (1, 2, 3)] == [0.5, 0.5, 0.75]
    assert (measured["delta"], measured["delta_t2_t3"]) == (0, 0.25)
    assert (measured["incorrect_to_correct"], measured["correct_to_incorrect"]) == (0.25, 0.25)


def test_truncation_counts_attempts_not_trajectories() -> None:
    cut = Trajectory(Problem("a", (user("?"),)), 0, (attempt(0, False, finish="length"), attempt(1, False)))
    assert metrics.measure([[cut]])["truncated"] == 0.5


def test_nothing_cannot_be_measured() -> None:
    with pytest.raises(ValueError, match="no trajectory"):
        metrics.measure([])


@pytest.mark.parametrize(
    ("first", "second", "ratio"),
    [
        ("", "", 0.0),
        ("", "abc", 1.0),
        ("abc", "abc", 0.0),
        ("abc", "xyz", 1.0),
        ("abcd", "abxd", 2 / 8),  # c out, x in
        ("kitten", "sitting", 5 / 13),  # k out, s in; e out, i in; g in
    ],
)
def test_edit_ratio(first: str, second: str, ratio: float) -> None:
    assert metrics.edit_ratio(first, second) == pytest.approx(ratio)
    assert metrics.edit_ratio(second, first) == pytest.approx(ratio)


def test_the_answer_decides_whether_it_changed_and_the_text_where_there_is_none() -> None:
    assert not metrics.answer_changed(attempt(0, True, "so 4", "4"), attempt(1, True, "hence 4", "4"))
    assert metrics.answer_changed(attempt(0, True, "4", "4"), attempt(1, True, "4", "5"))
    assert not metrics.answer_changed(attempt(0, False, "no idea"), attempt(1, False, " no idea\n"))
    assert metrics.answer_changed(attempt(0, False, "no idea"), attempt(1, True, "so 4", "4"))


def test_outcomes_keep_what_the_metrics_of_correctness_need() -> None:
    several: list[Group] = [
        [trajectory("a", "01"), trajectory("a", "11", sample=1)],
        [trajectory("b", "00", ("x", "y")), trajectory("b", "10", sample=1)],
    ]
    words = metrics.outcomes(several)
    assert words == {"a": "01* 11", "b": "00* 10*"}
    whole, kept = metrics.measure(several), metrics.tally_outcomes(words).values()
    assert kept == {name: whole[name] for name in kept}
    assert {"accuracy_t1", "delta", "fix_rate", "answer_changed"} < kept.keys()
