"""The comparison: what each method makes of a recipe, and what the runs say together."""

import json
import subprocess
import sys

import numpy as np
import pytest

from scorl.compare import METHODS, chosen, compared, comparison_grid, jobs, planned_runs
from scorl.compare.arms import Arm
from scorl.errors import UserError
from scorl.metrics import over_seeds, paired_over_seeds, tally_outcomes
from scorl.metrics.hierarchy import student_tail
from scorl.metrics.intervals import wilson
from scorl.objectives import PairSFT, Reinforce, StageOne, StageTwo, Star
from scorl.recipe import resolve

RECIPE = resolve("countdown")
STEPS = 240


def stages(name):
    return METHODS[name].of(RECIPE).stages


@pytest.mark.parametrize("name", [n for n, m in METHODS.items() if m.stages])
def test_every_method_makes_as_many_updates_on_as_many_samples(name):
    made = stages(name)
    assert sum(stage.steps for stage in made) == STEPS
    assert {(stage.problems, stage.samples) for stage in made} == {(16, 8)}


def test_what_the_methods_are():
    assert stages("base") == stages("self_refine") == ()
    assert METHODS["self_refine"].of(RECIPE).turns.name == "self_refine"
    assert stages("score") == RECIPE.stages
    assert [s.objective for s in stages("star")] == [Star()] * 3
    assert [s.objective for s in stages("pair_sft_plus")] == [PairSFT(keep_right=True)]
    assert [(s.objective, s.attempts) for s in stages("single_turn")] == [(Reinforce(0.01), 1)]
    assert [(s.objective, s.attempts) for s in stages("multi_turn")] == [(Reinforce(0.01), 2)]
    assert [type(s.objective) for s in stages("no_stage_one")] == [StageTwo]
    assert [getattr(s.objective, "alpha", None) for s in stages("no_bonus")] == [None, 0.0]
    assert [type(s.objective) for s in stages("star_stage_two")] == [StageOne, Star, Star, Star]
    assert [s.offline for s in stages("offline_only")] == [1.0, 1.0]
    assert [s.offline for s in stages("offline_mixed")] == [0.0, 0.5]
    assert [type(s.objective) for s in stages("interleaved")] == [StageOne, StageTwo] * 2
    assert [(s.attempts, s.reset_reference) for s in stages("three_attempts")] == [(2, False), (3, True), (3, False)]


def test_arms_are_read_and_mistakes_are_named():
    assert chosen("base, score:stages.1.alpha=0:seed=3,multi_turn") == [
        Arm("base"),
        Arm("score", ("stages.1.alpha=0", "seed=3")),
        Arm("multi_turn"),
    ]
    (arm,) = chosen("score:stages.1.alpha=0")
    assert arm.recipe(RECIPE).stages[1].objective.alpha == 0
    for names, message in (("scor", "did you mean 'score'"), ("base,base", "twice")):
        with pytest.raises(UserError, match=message):
            chosen(names)
    with pytest.raises(UserError, match=r"stages\.1\.alhpa"):
        chosen("score:stages.1.alhpa=0")[0].recipe(RECIPE)
    with pytest.raises(UserError, match="score_stage_one"):
        METHODS["star"].of(resolve("countdown-multi-turn"))


def words(pattern, names=4):
    return tally_outcomes({f"p{i}": word for i, word in enumerate(pattern.split())})


def test_means_over_seeds_by_hand():
    found = over_seeds([words("01 11 00 10"), words("11 11 00 00")])
    assert found["accuracy_t1"].value == pytest.approx((2 / 4 + 2 / 4) / 2)
    assert found["accuracy_t2"].value == pytest.approx((2 / 4 + 2 / 4) / 2)
    assert found["fix_rate"].value == pytest.approx((1 / 2 + 0 / 2) / 2)
    assert found["accuracy_t2"].low <= 0.5 <= found["accuracy_t2"].high


def test_the_interval_knows_seeds_and_problems():
    rng = np.random.default_rng(0)
    problems = rng.random(400) < 0.5

    def seeds(spread):
        rates = 0.5 + spread * np.array([-1, -0.5, 0, 0.5, 1])
        return [words(" ".join("11" if r < rate else "00" for r in rng.random(400))) for rate in rates]

    narrow, wide = (over_seeds(seeds(s))["accuracy_t1"] for s in (0.0, 0.2))
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)
    same = [words(" ".join("11" if p else "00" for p in problems))] * 5  # seeds agree: problems alone vary
    interval = over_seeds(same)["accuracy_t1"]
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * 0.5 / 20, rel=0.1)


def test_a_rate_that_never_varies_is_not_certain():
    intervals = over_seeds([words("01 " * 10), words("01 " * 10)])
    low, high = wilson(1.0, 10)
    assert (intervals["accuracy_t2"].low, intervals["accuracy_t2"].high) == (low, high)
    assert intervals["accuracy_t1"].low == 0
    assert intervals["accuracy_t1"].high == pytest.approx(1 - low)


def test_paired_differences_over_seeds():
    base = [words("01 11 00 10 " * 50)]
    better = [words("01 11 01 11 " * 50)] * 5
    found = paired_over_seeds(base, better)
    assert found["accuracy_t2"].value == pytest.approx(0.5)
    assert found["accuracy_t2"].p < 0.001
    assert paired_over_seeds(better, better)["delta"].p == 1.0
    with pytest.raises(ValueError, match="same problems"):
        paired_over_seeds(base, [words("01 11")])


def test_the_p_of_few_seeds_is_no_smaller_than_a_t_test():
    one = [words("11 " * 50 + "00 " * 50)] * 3
    other = [words("11 " * n + "00 " * (100 - n)) for n in (50, 60, 55)]
    t = 5 / (5 / 3**0.5)
    assert paired_over_seeds(one, other)["accuracy_t1"].p >= student_tail(t, 2) - 1e-9


@pytest.mark.parametrize(("t", "degrees"), [(12.7062, 1), (4.302653, 2), (2.776445, 4), (2.570582, 5), (2.228139, 10)])
def test_students_tail_against_its_table(t, degrees):
    assert student_tail(t, degrees) == pytest.approx(0.05, abs=1e-5)


def finished(run, outcomes):
    """What a run leaves that is over."""
    run.directory.mkdir(parents=True)
    tally = tally_outcomes(outcomes)
    assert tally.problems
    evaluation = {"step": run.recipe.steps, "problems": len(outcomes), "outcomes": outcomes, "metrics": {}}
    evaluation["edit_ratios"] = dict.fromkeys(outcomes, 0.25)
    (run.directory / "evaluation.json").write_text(json.dumps({"test": evaluation}))


def test_the_table_of_finished_runs(tmp_path):
    arms = chosen("base,multi_turn,score")
    runs = planned_runs(RECIPE, arms, 2, tmp_path)
    assert [(r.arm.name, r.seed) for r in runs] == [
        ("base", 0),
        ("multi_turn", 0),
        ("score", 0),
        ("multi_turn", 1),
        ("score", 1),
    ]
    answers = {"base": "10", "multi_turn": "11", "score": "01"}
    for run in runs[:4]:
        finished(run, {f"p{i}": answers[run.arm.name] if i % 2 else "00" for i in range(40)})
    comparison = compared(runs)
    grid = comparison_grid(comparison)
    assert [row[:2] for row in grid.rows] == [("base", ""), ("multi-turn RL", "2"), ("SCoRe", "1")]
    found = comparison.as_dict()["arms"]
    assert found["score"]["metrics"]["delta"]["mean"] == pytest.approx(0.5)
    assert found["base"]["to_score"]["delta"]["value"] == pytest.approx(-1.0)
    assert found["score"]["paper_math500"] == {"accuracy_t1": 60.0, "accuracy_t2": 64.4, "delta": 4.4}
    json.dumps(found)


def test_seeds_that_did_not_end_are_left_out_on_both_sides(tmp_path):
    runs = planned_runs(RECIPE, chosen("multi_turn,score"), 2, tmp_path)
    of = {(run.arm.name, run.seed): run for run in runs}
    finished(of["multi_turn", 1], {"a": "11", "b": "11"})
    finished(of["score", 0], {"a": "00", "b": "00"})
    assert compared(runs).rows[0].to_score == {}
    finished(of["score", 1], {"a": "01", "b": "11"})
    (multi_turn, _) = compared(runs).rows
    assert multi_turn.to_score["accuracy_t1"].value == pytest.approx(0.5)


def test_a_folder_with_another_recipes_run_is_refused(tmp_path):
    arms = chosen("score")
    (run,) = planned_runs(RECIPE, arms, 1, tmp_path)
    run.directory.mkdir(parents=True)
    (run.directory / "recipe.yaml").write_text(resolve("countdown", ["seed=9"]).dump())
    with pytest.raises(UserError, match=r"another recipe[\s\S]*seed"):
        planned_runs(RECIPE, arms, 1, tmp_path)


def test_a_run_that_the_system_killed_is_said_to_be(tmp_path, monkeypatch):
    killed = [sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"]
    monkeypatch.setattr(jobs, "_start", lambda *_: subprocess.Popen(killed))
    (run,) = planned_runs(RECIPE, [Arm("base")], 1, tmp_path)
    told: list[str] = []
    assert jobs.carry_out([run], tmp_path, 1, told.append) == [run]
    assert "FAILED: killed by SIGKILL, as the system does when memory runs out" in told[0]
