"""The comparison: what each method makes of a recipe, and what the runs say together."""

import json
import shutil
import subprocess
import sys

import pytest
import torch

from scorl.compare import METHODS, jobs, parse_arms, plan_runs, summarize_runs, tabulate_comparison
from scorl.compare.arms import Arm
from scorl.errors import UserError
from scorl.metrics import tally_outcomes
from scorl.model.rates import CpuRates
from scorl.objectives import PairSFT, Reinforce, StageOne, StageTwo, Star
from scorl.recipe import decide, resolve
from scorl.report import gather_report
from scorl.run.directory import LOCK
from scorl.run.lock import exclusive
from scorl.tasks.turns import SelfRefine

RECIPE = resolve("countdown")
STEPS = 240
subprocess_popen = subprocess.Popen


def stages(name):
    return METHODS[name].of(RECIPE).stages


@pytest.mark.parametrize("name", [n for n, m in METHODS.items() if m.stages])
def test_every_method_makes_as_many_updates_on_as_many_samples(name):
    made = stages(name)
    assert sum(stage.steps for stage in made) == STEPS
    assert {(stage.problems, stage.samples) for stage in made} == {(16, 8)}


def test_what_the_methods_are():
    assert stages("base") == stages("self_refine") == ()
    assert METHODS["self_refine"].of(RECIPE).turns == SelfRefine()
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
    assert parse_arms("base, score:stages.1.alpha=0:learner.weight_decay=1,multi_turn") == [
        Arm("base"),
        Arm("score", ("stages.1.alpha=0", "learner.weight_decay=1")),
        Arm("multi_turn"),
    ]
    (arm,) = parse_arms("score:stages.1.alpha=0")
    assert arm.recipe(RECIPE).stages[1].objective.alpha == 0
    for names, message in (("scor", "did you mean 'score'"), ("base,base", "twice")):
        with pytest.raises(UserError, match=message):
            parse_arms(names)
    lora = "score:model.lora={r: 8, target_modules: [q_proj,k_proj]}:stages.1.alpha=0"
    assert parse_arms(f"{lora} ,multi_turn") == [
        Arm("score", ("model.lora={r: 8, target_modules: [q_proj,k_proj]}", "stages.1.alpha=0")),
        Arm("multi_turn"),
    ]
    for key in ("seed=3", "evaluation.problems=9", "evaluation={split: train}"):
        with pytest.raises(UserError, match=r"arm 'score:.*' sets .*, which must be the same in every arm"):
            parse_arms(f"base,score:{key}")
    assert parse_arms("score:evaluation.eval_steps=9")[0].recipe(RECIPE).evaluation.eval_steps == 9
    with pytest.raises(UserError, match=r"stages\.1\.alhpa"):
        parse_arms("score:stages.1.alhpa=0")[0].recipe(RECIPE)
    with pytest.raises(UserError, match="score_stage_one"):
        METHODS["star"].of(resolve("countdown-multi-turn"))


def finished(run, outcomes, fixed=None, tokens=None, **more):
    """What a run leaves that is over."""
    run.directory.mkdir(parents=True)
    tally = tally_outcomes(outcomes)
    assert tally.problems
    evaluation = {"step": run.recipe.steps, "problems": len(outcomes), "outcomes": outcomes, "metrics": {}}
    evaluation |= {"model": "tiny", "task": "countdown", "split": "test", "samples": 1, "temperature": 0.0}
    evaluation |= {"mcnemar_p": None, **more}
    evaluation["edit_ratios"] = dict.fromkeys(outcomes, 0.25)
    if tokens:
        evaluation["tokens"] = dict.fromkeys(outcomes, tokens)
    if fixed:
        evaluation["fixed"] = {"outcomes": fixed}
    found = {run.recipe.evaluation.split: evaluation | {"history": [evaluation]}}
    (run.directory / "evaluation.json").write_text(json.dumps(found))


def test_the_table_of_finished_runs(tmp_path):
    arms = parse_arms("base,multi_turn,score")
    runs = plan_runs(RECIPE, arms, 2, tmp_path)
    assert [(r.arm.name, r.seed) for r in runs] == [
        ("base", 0),
        ("multi_turn", 0),
        ("score", 0),
        ("multi_turn", 1),
        ("score", 1),
    ]
    assert [run.recipe.logging.run_name for run in runs[:2]] == [
        f"{tmp_path.name}/{name}/seed-0" for name in ("base", "multi_turn")
    ]
    assert {run.recipe.logging.group for run in runs} == {tmp_path.name}
    answers = {"base": "10", "multi_turn": "11", "score": "01"}
    for run in runs[:4]:
        finished(run, {f"p{i}": answers[run.arm.name] if i % 2 else "00" for i in range(40)})
    comparison = summarize_runs(runs)
    grid = tabulate_comparison(comparison)
    assert [row[:2] for row in grid.rows] == [("base", ""), ("multi-turn RL", "2"), ("SCoRe", "1")]
    arms_json = comparison.as_dict()["arms"]
    assert arms_json["score"]["metrics"]["delta"]["mean"] == pytest.approx(0.5)
    assert arms_json["base"]["to_score"]["delta"]["value"] == pytest.approx(-1.0)
    assert arms_json["score"]["paper_math500"] == {"accuracy_t1": 60.0, "accuracy_t2": 64.4, "delta": 4.4}
    json.dumps(arms_json)


def test_runs_on_other_problems_have_no_table(tmp_path):
    runs = plan_runs(RECIPE, parse_arms("base,score,multi_turn:task.correction=Look again."), 1, tmp_path)
    for run, digest in zip(runs, "aab", strict=True):
        finished(run, {"p0": "01"}, problems_hash=digest)
    assert len(summarize_runs(runs).rows) == 3  # the same problems in other words
    shutil.rmtree(runs[1].directory)
    finished(runs[1], {"p0": "01"}, problems_hash="c")
    with pytest.raises(UserError, match=r"score/seed-0 was evaluated on other problems than .*/base/seed-0"):
        summarize_runs(runs)
    shutil.rmtree(runs[1].directory)
    finished(runs[1], {"p1": "01"})
    with pytest.raises(UserError, match="other problems"):
        summarize_runs(runs)


def test_a_value_with_a_slash_or_of_many_words_is_a_folder_like_others(tmp_path):
    runs = plan_runs(RECIPE, parse_arms(f"score:model.path=a/b,score:task.correction={'Look. ' * 99}"), 1, tmp_path)
    assert runs[0].directory == tmp_path / "score:model.path=a_b" / "seed-0"
    assert len(runs[1].directory.parent.name) < 220


def table_of(out, arms, seeds, answer):
    """The comparison, its JSON by arm, and its table, a dict a row, of runs with these outcomes of an (arm, seed)."""
    runs = plan_runs(RECIPE, parse_arms(arms), seeds, out)
    for run in runs:
        finished(run, answer(run.arm.name, run.seed))
    comparison = summarize_runs(runs)
    grid = tabulate_comparison(comparison)
    rows = {row[0]: dict(zip(grid.header, row, strict=True)) for row in grid.rows}
    return comparison.as_dict()["arms"], rows, grid


def test_the_table_counts_the_seeds_that_copy(tmp_path):
    copies, flips = {f"p{i}": "00" for i in range(100)}, {f"p{i}": "01*" for i in range(5)}

    def answer(arm, seed):  # 4 of 100 answers change in every seed of multi-turn RL, 5 of 100 in those of SCoRe
        return copies | {f"p{i}": "00*" for i in range(4)} if arm != "score" else copies | flips

    arms, rows, grid = table_of(tmp_path, "base,single_turn,multi_turn,score", 3, answer)
    assert arms["multi_turn"]["collapsed"] == {"seeds": 3, "of": 3, "share": 1.0, "p": 0.1, "p_holm": 0.1}
    assert arms["score"]["collapsed"] == {"seeds": 0, "of": 3, "share": 0.0, "p": None, "p_holm": None}
    assert arms["base"]["collapsed"] is arms["single_turn"]["collapsed"] is None
    assert [row["collapsed"] for row in rows.values()] == ["", "", "3 of 3 (p = 0.100)", "0 of 3"]
    assert any("fewer than 5% of the answers" in note for note in grid.notes)
    arms, rows, _ = table_of(tmp_path / "alone", "base,multi_turn", 3, answer)
    assert arms["multi_turn"]["collapsed"]["p"] is None
    assert rows["multi-turn RL"]["collapsed"] == "3 of 3"


def test_the_table_has_keep_rate_fix_rate_and_ceiling(tmp_path):
    # of 20 right first attempts 15 are kept, of 80 wrong ones 40 are fixed: the ceiling is 0.5 / (0.5 + 0.25)
    words = ["11"] * 15 + ["10"] * 5 + ["01"] * 40 + ["00"] * 40
    arms, rows, _ = table_of(tmp_path, "score", 2, lambda arm, seed: {f"p{i}": word for i, word in enumerate(words)})
    means = [arms["score"]["metrics"][name]["mean"] for name in ("keep_rate", "fix_rate", "ceiling")]
    assert means == pytest.approx([3 / 4, 1 / 2, 2 / 3])
    cells = [rows["SCoRe"][name].split(" [")[0] for name in ("keep rate", "fix rate", "ceiling")]
    assert cells == ["75.0", "50.0", "66.7"]
    ceiling = arms["score"]["metrics"]["ceiling"]
    assert ceiling["low"] < ceiling["mean"] < ceiling["high"]


def test_the_tables_p_values_are_corrected_for_the_number_of_arms(tmp_path):
    kept = {"base": 0, "multi_turn": 14, "no_bonus": 17, "score": 20}

    def answer(arm, seed):
        return {f"p{i}": "01" if i < kept[arm] else "00" for i in range(60)}

    arms, rows, grid = table_of(tmp_path, "base,multi_turn,no_bonus,score", 1, answer)
    for name in ("accuracy_t2", "delta"):
        raw, holm = ([arms[a]["to_score"][name][key] for a in list(kept)[:3]] for key in ("p", "p_holm"))
        assert raw[0] < raw[1] < raw[2]
        assert holm == pytest.approx([3 * raw[0], max(3 * raw[0], 2 * raw[1]), max(2 * raw[1], raw[2])])
    p = arms["multi_turn"]["to_score"]["delta"]["p_holm"]
    assert rows["multi-turn RL"]["Delta - SCoRe"] == f"-10.0 (p = {p:.3f})"
    assert any("corrected for the number of arms" in note for note in grid.notes)


def test_the_report_of_a_comparison_has_every_figure(tmp_path):
    runs = plan_runs(RECIPE, parse_arms("base,score,score:stages.1.alpha=0:model.path=<b>"), 2, tmp_path)
    for run in runs:
        finished(run, {f"p{i}": "01" if i % 2 else "00" for i in range(40)}, fixed={"p0": "01", "p1": "10"})
    steps = [{"step": n, "stage": "one", "accuracy_t1": 0.25, "accuracy_t2": 0.5} for n in range(3)]
    (runs[1].directory / "steps.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    (tmp_path / "compare.json").write_text(json.dumps(summarize_runs(runs).as_dict()))
    gathered = gather_report([tmp_path])
    assert [run.name for run in gathered.runs] == ["base", runs[1].arm.name, runs[2].arm.name]
    titles = [chart["title"] for chart in gathered.comparisons[0]["charts"]]
    assert titles == [
        "Accuracy",
        "Delta(t1, t2)",
        "Flips, of all problems",
        "Wrong first attempts that are corrected",
    ]
    accuracy, *_, corrected = gathered.comparisons[0]["charts"]
    assert [row["label"] for row in accuracy["rows"]][2] == "SCoRe, stages.1.alpha=0, model.path=<b>"
    assert accuracy["rows"][1]["bars"][1][0] == 50
    assert [bar[0] for bar in corrected["rows"][0]["bars"]] == [100, 50]
    assert [run.charts["training"][0]["title"] for run in gathered.runs if run.charts["training"]] == ["Accuracy"]


def test_a_report_of_a_comparison_leaves_out_what_is_not_there(tmp_path):
    runs = plan_runs(RECIPE, parse_arms("base"), 1, tmp_path)
    finished(runs[0], {"p": "01"})
    (tmp_path / "compare.json").write_text(json.dumps(summarize_runs(runs).as_dict()))
    charts = gather_report([tmp_path]).comparisons[0]["charts"]
    assert [chart["title"] for chart in charts] == ["Accuracy", "Delta(t1, t2)", "Flips, of all problems"]
    (tmp_path / "compare.json").write_text("{}")
    with pytest.raises(UserError, match=r"compare.json has no arms"):
        gather_report([tmp_path])


def test_seeds_that_did_not_end_are_left_out_on_both_sides(tmp_path):
    runs = plan_runs(RECIPE, parse_arms("multi_turn,score"), 2, tmp_path)
    of = {(run.arm.name, run.seed): run for run in runs}
    finished(of["multi_turn", 1], {"a": "11", "b": "11"})
    finished(of["score", 0], {"a": "00", "b": "00"})
    assert summarize_runs(runs).rows[0].to_score == {}
    finished(of["score", 1], {"a": "01", "b": "11"})
    (multi_turn, _) = summarize_runs(runs).rows
    assert multi_turn.to_score["accuracy_t1"].value == pytest.approx(0.5)


def test_a_folder_with_another_recipes_run_is_refused(tmp_path):
    arms = parse_arms("score")
    (run,) = plan_runs(RECIPE, arms, 1, tmp_path)
    run.directory.mkdir(parents=True)
    (run.directory / "recipe.yaml").write_text(resolve("countdown", ["seed=9"]).dump())
    with pytest.raises(UserError, match=r"another recipe[\s\S]*seed"):
        plan_runs(RECIPE, arms, 1, tmp_path)


class TestRunsComputeAlike:
    """What the recipe leaves to the machine is decided once, whatever each run would measure."""

    @pytest.fixture(autouse=True)
    def machine(self, monkeypatch):
        """One on which even the tiny model is measured."""
        monkeypatch.setattr("scorl.model.dtype.LARGE", 1)
        self.measure(monkeypatch, bfloat16=9.0)

    def measure(self, monkeypatch, bfloat16):
        monkeypatch.setattr("scorl.model.rates.cpu_rates", lambda: CpuRates(1.0, 1.0, bfloat16))

    def given(self, out, monkeypatch, arms="score,multi_turn,score:model.dtype=float32", before=()):
        """The types and products that the runs are given, by arm."""
        nothing = [sys.executable, "-c", ""]
        monkeypatch.setattr(jobs.subprocess, "Popen", lambda command, **_: subprocess_popen(nothing))
        runs = plan_runs(resolve("countdown", ["model.device=cpu"]), parse_arms(arms), 1, out)
        jobs.execute_runs(runs, out, 2, lambda text: None, before)
        recipes = {run.arm.name: resolve(out / "recipes" / f"{run.arm.name}-seed-0.yaml") for run in runs}
        return {name: (recipe.model.dtype, recipe.model.onednn) for name, recipe in recipes.items()}

    def test_the_recipes_that_they_are_given_are_decided(self, tmp_path, monkeypatch):
        half = ("bfloat16", False)
        whole = ("float32", False)
        assert self.given(tmp_path, monkeypatch) == {
            "score": half,
            "multi_turn": half,
            "score:model.dtype=float32": whole,
        }

    @pytest.mark.parametrize("folder", ["", "tune"])
    def test_later_ones_follow_the_first(self, tmp_path, monkeypatch, folder):
        (run,) = plan_runs(resolve("countdown", ["model.device=cpu"]), parse_arms("score"), 1, tmp_path / folder)
        run.directory.mkdir(parents=True)
        started = decide(run.recipe, torch.device("cpu"), vllm=False)
        (run.directory / "recipe.yaml").write_text(started.dump())
        self.measure(monkeypatch, bfloat16=1.0)
        given = self.given(tmp_path, monkeypatch, before=[run])
        assert (given["score"], given["multi_turn"]) == (("bfloat16", False), ("bfloat16", False))
        assert given["score:model.dtype=float32"] == ("float32", False)


def test_only_arms_that_sample_alike_share_what_the_base_writes(tmp_path, monkeypatch):
    nothing = [sys.executable, "-c", ""]
    monkeypatch.setattr(jobs.subprocess, "Popen", lambda command, **_: subprocess_popen(nothing))
    arms = parse_arms("star,pair_sft,star:learner.learning_rate=1e-4,star:stages.0.samples=4")
    runs = plan_runs(resolve("countdown", ["model.device=cpu"]), arms, 1, tmp_path)
    jobs.execute_runs(runs, tmp_path, 1, lambda text: None)
    assert [run.files.collected(0).is_symlink() for run in runs] == [True, True, True, False]
    assert len({run.files.collected(0).resolve() for run in runs}) == 2
    # The place is made again where somebody has deleted it.
    shared = runs[0].files.collected(0).resolve()
    shutil.rmtree(tmp_path / "collected")
    jobs.execute_runs(runs, tmp_path, 1, lambda text: None)
    assert shared.is_dir()


def test_a_run_that_the_system_killed_is_said_to_be(tmp_path, monkeypatch):
    killed = [sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"]
    monkeypatch.setattr(jobs, "start_run", lambda *_: subprocess.Popen(killed))
    (run,) = plan_runs(RECIPE, [Arm("base")], 1, tmp_path)
    messages: list[str] = []
    assert jobs.execute_runs([run], tmp_path, 1, messages.append) == [run]
    assert "FAILED: killed by SIGKILL, as the system does when memory runs out" in messages[0]


def test_two_comparisons_do_not_share_a_folder(scorl, tmp_path):
    with exclusive(tmp_path / LOCK):
        code, _, said = scorl("compare", "countdown", "--methods", "base", "--out", tmp_path)
    assert (code, said.strip()) == (2, f"scorl: {tmp_path}: another process is at work there")
