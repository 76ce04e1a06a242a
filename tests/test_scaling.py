"""Scaling at inference: votes of parallel samples against votes of corrected ones."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from statistics import fmean

import pytest

from scorl.inference.scaling import list_budgets, measure_scaling
from scorl.trajectory import Problem, Response, Trajectory, Verdict, user
from scorl.verifiers import classify_answers, countdown, math


def group(name: str, *chains: str) -> list[Trajectory]:
    """Chains of one-letter answers, `-` for none; `a` is right."""

    def attempt(letter: str) -> Response:
        answer = None if letter == "-" else letter
        return Response((1,), (1, 2), (0.0, 0.0), letter, "stop", Verdict(float(letter == "a"), "", answer=answer))

    problem = Problem(name, (user("?"),))
    return [Trajectory(problem, k, tuple(map(attempt, chain))) for k, chain in enumerate(chains)]


def judge(pairs):
    raise AssertionError("answers are compared as they are written")


def vote(letters: tuple[str, ...]) -> float:
    votes = {x: letters.count(x) for x in letters if x != "-"}
    best = [x for x, n in votes.items() if n == max(votes.values())]
    return fmean(x == "a" for x in best) if best else 0.0


def test_every_arm_is_the_mean_over_all_choices() -> None:
    chains = {"p": ("ba", "ca", "ab", "-a"), "q": ("aa", "ab", "bb", "b-")}
    scaling = measure_scaling([group(name, *texts) for name, texts in chains.items()], judge)
    arms = {name: {k: interval.value for k, interval in arm.items()} for name, arm in scaling.intervals().items()}
    for k in (1, 2, 4):
        by_hand = fmean(
            fmean(vote(tuple(c[0] for c in some)) for some in combinations(texts, k)) for texts in chains.values()
        )
        assert arms["parallel"][k] == pytest.approx(by_hand)
    for k in (2, 4):
        by_hand = fmean(
            fmean(vote(tuple(c[1] for c in some)) for some in combinations(texts, k // 2)) for texts in chains.values()
        )
        assert arms["corrected once"][k] == pytest.approx(by_hand)
    assert set(arms["corrected once"]) == {2, 4}
    assert arms["any of them right"][4] == 1.0
    assert scaling.tokens == {"parallel": 2.0, "corrected once": 2.0}


def test_the_difference_is_paired_at_equal_budgets() -> None:
    groups = [group(str(n), "ba", "ba", "ba", "ba") for n in range(30)]
    summary = measure_scaling(groups, judge).summary()
    assert summary["budgets"] == [1, 2, 4]
    assert summary["difference"]["corrected once"][4]["value"] == 1.0
    assert summary["difference"]["corrected once"][4]["p"] < 0.001
    assert "parallel" not in summary["difference"]


def test_deeper_chains_take_a_share_of_the_budget() -> None:
    scaling = measure_scaling([group("p", *["bba"] * 12)], judge)
    assert {name: list(arm) for name, arm in scaling.intervals().items()} == {
        "parallel": [1, 2, 4, 8, 12],
        "corrected once": [2, 4, 8, 12],
        "corrected 2 times": [4, 8, 12],
        "any of them right": [1, 2, 4, 8, 12],
    }
    assert scaling.intervals()["corrected 2 times"][12].value == 1.0


def test_unequal_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="as many samples"):
        measure_scaling([group("p", "ab", "ab"), group("q", "ab")], judge)


def test_answers_that_the_verifier_takes_for_equal_vote_together() -> None:
    several = [["1/2", "0.5", "2", "0.50"], ["3"], []]
    assert classify_answers(math.judge_numbers, several) == [["1/2", "1/2", "2", "1/2"], ["3"], []]
    assert classify_answers(countdown.judge, several) == several
    problem = Problem("half", (user("?"),), answer="1/2")
    answers = ["0.5", r"\frac12", "2", "2", "3"]
    verdicts = [Verdict(float(n < 2), "", answer=a) for n, a in enumerate(answers)]
    samples = [Trajectory(problem, n, (Response((), (), (), "", "stop", v),)) for n, v in enumerate(verdicts)]
    scaling = measure_scaling([samples], math.judge)
    # Of five: 1/2 twice, 2 twice, 3 once: a tie.
    assert scaling.intervals()["parallel"][5].value == pytest.approx(0.5)


def test_budgets() -> None:
    assert list_budgets(1) == [1]
    assert list_budgets(32) == [1, 2, 4, 8, 16, 32]


def test_the_command_goes_on_where_it_was_cut(tmp_path: Path, scorl) -> None:
    asked = ("scale", "scorl:countdown-base", "--task", "countdown", "--limit", 6, "--budget", 4, "--max-tokens", 12,
             "engine.batch_size=8", "--out", tmp_path / "scaled")  # fmt: skip
    code, table, _ = scorl(*asked)
    assert code == 0
    assert "| responses |" in table
    attempts = tmp_path / "scaled" / "attempts.jsonl"
    whole, result = attempts.read_text(), (tmp_path / "scaled" / "scale.json").read_bytes()
    cut = whole.splitlines(keepends=True)[:27]
    attempts.write_text("".join(cut) + '{"problem": "torn')
    code, again, said = scorl(*asked)
    assert (code, again) == (0, table)
    assert "6/6 problems" in said
    assert attempts.read_text() == whole  # three whole problems stayed, and the rest was written as before
    assert (tmp_path / "scaled" / "scale.json").read_bytes() == result
    code, _, said = scorl(*asked, "model.dtype=bfloat16")
    assert (code, "sampler=" in said) == (2, True)
    code, _, said = scorl(*asked, "--attempts", 5)
    assert (code, "no room for such a chain" in said) == (2, True)
    code, _, said = scorl(*asked, "--temperature", 1.0)
    assert code == 2
    assert "temperature=0.7" in said


def test_the_command_keeps_to_the_limit_of_each_attempt(tmp_path: Path, scorl) -> None:
    out = tmp_path / "scaled"
    asked = ("scale", "scorl:countdown-base", "--task", "countdown", "--limit", 3, "--budget", 2, "--out", out)
    assert scorl(*asked, "--max-tokens", "6,9")[0] == 0
    lines = [json.loads(line) for line in (out / "attempts.jsonl").read_text().splitlines()]
    assert [max(line["tokens"] for line in lines if line["turn"] == turn) for turn in (0, 1)] == [6, 9]
    assert json.loads((out / "scale.json").read_text())["max_tokens"] == [6, 9]
    assert scorl(*asked, "--max-tokens", "6,9")[0] == 0  # goes on
    code, _, said = scorl(*asked, "--max-tokens", "6,10")
    assert (code, "max_tokens=[6, 9], and [6, 10] is asked for" in said) == (2, True)


def test_the_command_leaves_foreign_folders_alone(tmp_path: Path, scorl) -> None:
    asked = ("scale", "scorl:countdown-base", "--task", "countdown", "--limit", 2, "--budget", 2, "--out", tmp_path)
    (tmp_path / "attempts.jsonl").write_text("{}\n")
    code, _, said = scorl(*asked)
    assert code == 2
    assert "something else" in said
    (tmp_path / "scale.json").write_text("[]")
    code, _, said = scorl(*asked)
    assert code == 2
    assert "was not written by" in said
