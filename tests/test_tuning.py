"""Arms tuned alike: what is tried, what is chosen, and what then runs."""

import json
import sys

import pytest
from test_compare import finished

from scorl.compare import parse_arms, plan_runs, summarize_runs, tabulate_comparison
from scorl.compare.tuning import choose_values, describe_choice, parse_tuning, pick_arms, plan_trials
from scorl.errors import UserError
from scorl.recipe import resolve

RECIPE = resolve("countdown")
KEY = "learner.learning_rate"


def tune(out, figures, arms="base,multi_turn,score", listed="1e-4,3e-4,1e-3", seeds=1):
    """The arms and what was chosen for them, where trials end with so many of 10 right; None: they do not end."""
    asked, tuning = parse_arms(arms), parse_tuning(f"{KEY}={listed}", RECIPE, seeds)
    trials = plan_trials(RECIPE, asked, tuning, out)
    for run in trials:
        method, _, value = run.arm.name.partition(f":{KEY}=")
        right = figures[method][value]
        if right is not None:
            finished(run, {f"p{i}": "01" if i < right else "00" for i in range(10)})
    return asked, choose_values(RECIPE, asked, tuning, trials)


def test_every_arm_that_trains_tries_every_value_on_the_validation_split(tmp_path):
    tuning = parse_tuning(f"{KEY}=1e-4, 3e-4", RECIPE, 2)
    trials = plan_trials(RECIPE, parse_arms("base,multi_turn,score"), tuning, tmp_path)
    assert {str(run.directory.relative_to(tmp_path)) for run in trials} == {
        f"tune/{arm}:{KEY}={value}/seed-{seed}"
        for arm in ("multi_turn", "score")
        for value in ("0.0001", "0.0003")
        for seed in (1000, 1001)
    }
    for run in trials:
        assert run.recipe.evaluation.split == "validation"
        assert f"={run.recipe.learner.learning_rate}" in run.arm.name
        assert run.recipe.seed == run.seed
        assert run.recipe.logging.group == tmp_path.name


def test_each_arm_gets_the_value_that_is_best(tmp_path):
    figures = {
        "multi_turn": {"0.0001": 7, "0.0003": 5, "0.001": 6},
        "score": {"0.0001": 4, "0.0003": 8, "0.001": 2},
    }
    asked, tuned = tune(tmp_path, figures)
    base, multi_turn, score = asked
    assert pick_arms(asked, tuned) == [base, *parse_arms(f"multi_turn:{KEY}=0.0001"), score]
    assert tuned[multi_turn].as_dict() == {
        "key": KEY,
        "value": "0.0001",
        "validation": {"0.0001": 0.7, "0.0003": 0.5, "0.001": 0.6},
        "seeds": [1000],
    }
    assert describe_choice(score, tuned[score]).endswith("(0.0001: 40.0, 0.0003: 80.0, 0.001: 20.0)")


def test_of_equal_values_the_recipes_own_stays_and_else_the_first(tmp_path):
    equal = {"multi_turn": {"0.0001": 5, "0.0003": 5, "0.001": 5}, "score": {"0.0001": 3, "0.0003": 2, "0.001": 3}}
    _, tuned = tune(tmp_path, equal)
    assert [choice.value for choice in tuned.values()] == ["0.0003", "0.0001"]


def test_equal_counts_of_other_seeds_are_equal(tmp_path):
    (score,), tuning = parse_arms("score"), parse_tuning(f"{KEY}=1e-4,3e-4", RECIPE, 2)
    trials = plan_trials(RECIPE, [score], tuning, tmp_path)
    for run, right in zip(trials, (40, 41, 42, 41), strict=True):  # by seed, then by value; their floats differ
        finished(run, {f"p{i}": "01" if i < right else "00" for i in range(200)})
    assert choose_values(RECIPE, [score], tuning, trials)[score].value == "0.0003"


def test_a_key_that_makes_an_arm_what_it_is_is_not_tuned(tmp_path):
    tuning = parse_tuning("stages.1.alpha=1,10", RECIPE, 1)
    assert plan_trials(RECIPE, parse_arms("score"), tuning, tmp_path)
    with pytest.raises(UserError, match=r"arm 'no_bonus' is what it is by stages\.1\.alpha=0\.0"):
        plan_trials(RECIPE, parse_arms("score,no_bonus"), tuning, tmp_path)
    with pytest.raises(UserError, match=r"arm 'offline_only' is what it is by stages\.0\.offline"):
        plan_trials(RECIPE, parse_arms("offline_only"), parse_tuning("stages.0.offline=0,0.5", RECIPE, 1), tmp_path)


def test_a_value_whose_trial_failed_is_not_chosen(tmp_path):
    failed = {
        "multi_turn": dict.fromkeys(("0.0001", "0.0003", "0.001")),
        "score": {"0.0001": 1, "0.0003": None, "0.001": 0},
    }
    asked, tuned = tune(tmp_path, failed)
    base, _, score = asked
    assert list(tuned) == [score]
    assert tuned[score].validation == {"0.0001": 0.1, "0.0003": None, "0.001": 0.0}
    assert pick_arms(asked, tuned) == [base, *parse_arms(f"score:{KEY}=0.0001")]
    assert "0.0003: failed" in describe_choice(score, tuned[score])


def test_of_several_seeds_the_mean_counts_and_all_must_have_ended(tmp_path):
    (score,), tuning = parse_arms("score"), parse_tuning(f"{KEY}=1e-4,3e-4,1e-3", RECIPE, 2)
    trials = plan_trials(RECIPE, [score], tuning, tmp_path)
    for run, right in zip(trials[:-1], (8, 5, 9, 1, 3), strict=True):  # by seed, then by value
        finished(run, {f"p{i}": "01" if i < right else "00" for i in range(10)})
    tuned = choose_values(RECIPE, [score], tuning, trials)[score]
    assert tuned.validation == pytest.approx({"0.0001": 0.45, "0.0003": 0.4, "0.001": None})
    assert (tuned.value, tuned.seeds) == ("0.0001", (1000, 1001))


def test_the_final_runs_of_the_recipes_own_value_are_those_without_tuning(tmp_path):
    best = {"multi_turn": {"0.0001": 9, "0.0003": 5}, "score": {"0.0001": 4, "0.0003": 8}}
    asked, tuned = tune(tmp_path, best, listed="1e-4,3e-4")
    final = {run.directory: run.recipe for run in plan_runs(RECIPE, pick_arms(asked, tuned), 2, tmp_path)}
    plain = {run.directory: run.recipe for run in plan_runs(RECIPE, asked, 2, tmp_path)}
    assert {path for path in plain if path in final} == {
        tmp_path / name for name in ("base/seed-0", "score/seed-0", "score/seed-1")
    }
    assert all(plain[path] == recipe for path, recipe in final.items() if path in plain)
    changed = final[tmp_path / f"multi_turn:{KEY}=0.0001" / "seed-1"]
    assert (changed.learner.learning_rate, changed.evaluation.split, changed.seed) == (1e-4, "test", 1)


def test_the_table_calls_arms_as_they_were_asked_for_and_says_their_value(tmp_path):
    best = {"multi_turn": {"0.0001": 9, "0.0003": 5}, "score": {"0.0001": 4, "0.0003": 8}}
    asked, tuned = tune(tmp_path, best, listed="1e-4,3e-4")
    runs = plan_runs(RECIPE, pick_arms(asked, tuned), 2, tmp_path)
    for run in runs:
        finished(run, {f"p{i}": "01*" if i % 2 else "00" for i in range(10)})
    comparison = summarize_runs(runs, tuned)
    arms = comparison.as_dict()["arms"]
    assert list(arms) == ["base", "multi_turn", "score"]
    assert arms["base"]["tuned"] is None
    assert arms["multi_turn"]["tuned"]["value"] == "0.0001"
    assert arms["multi_turn"]["to_score"]["delta"]["value"] == 0
    grid = tabulate_comparison(comparison)
    assert grid.header[2] == KEY
    assert [row[:3] for row in grid.rows] == [
        ("base", "", ""),
        ("multi-turn RL", "2", "0.0001"),
        ("SCoRe", "2", "0.0003"),
    ]
    assert any("of 0.0001, 0.0003, the best of each arm by final accuracy" in note for note in grid.notes)


@pytest.mark.parametrize(
    ("text", "arms", "message"),
    [
        (KEY, "score", "is no list of values"),
        (f"{KEY}=1e-4", "score", "is no list of values"),
        (f"{KEY}=1e-4,", "score", "is no list of values"),
        (f"{KEY}=1e-4,0.0001", "score", "0.0001 stands there twice"),
        (f"{KEY}=1e-4,fast", "score", "should be a number"),
        ("learner.lerning_rate=1,2", "score", "did you mean 'learning_rate'"),
        ("evaluation.split=train,test", "score", "must be the same in every arm"),
        ("seed=1,2", "score", "must be the same in every arm"),
        ("stages.1.alpha=1,2", "score,multi_turn", "arm 'multi_turn' has no single value"),
        (f"{KEY}=1e-4,1e-3", f"score:{KEY}=1e-4", "sets learner.learning_rate itself"),
    ],
)
def test_what_cannot_be_tuned_is_said_before_anything_runs(tmp_path, text, arms, message):
    with pytest.raises(UserError, match=message):
        plan_trials(RECIPE, parse_arms(arms), parse_tuning(text, RECIPE, 1), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_task_without_validation_problems_is_refused(tmp_path):
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"problem": f"{i} + 1", "answer": str(i + 1)}) + "\n" for i in range(40)))
    task = f'task={{"name": "files", "path": "{data}"}}'
    recipe = resolve("countdown", [task])
    with pytest.raises(UserError, match=r"'validation': task 'files' has no split 'validation'.*train"):
        plan_trials(recipe, parse_arms("score"), parse_tuning(f"{KEY}=1e-4,1e-3", recipe, 1), tmp_path)


@pytest.mark.parametrize(("failing", "code"), [("multi_turn:learner.learning_rate=1.0", 0), ("multi_turn", 1)])
def test_a_failed_trial_fails_the_command_where_it_leaves_an_arm_without_a_value(
    scorl, tmp_path, monkeypatch, failing, code
):
    def execute(runs, place, jobs, before=()):
        failed = [run for run in runs if run.arm.name.startswith(failing)]
        for run in runs:
            if run not in failed:
                finished(run, {f"p{i}": "01*" for i in range(10)})
        return failed

    monkeypatch.setattr(sys.modules["scorl.cli.compare"], "_execute", execute)
    command = ["compare", "countdown", "--methods", "multi_turn,score", "--seeds", "1", "--out", tmp_path]
    assert scorl(*command, "--tune", f"{KEY}=3e-4,1.0")[0] == code
    arms = json.loads((tmp_path / "compare.json").read_text())["arms"]
    assert list(arms) == (["score"] if code else ["multi_turn", "score"])


TINY = ["stages.0.steps=1", "stages.1.steps=1", "engine.max_tokens=8", "evaluation.problems=2"]
TINY += [f"stages.{stage}.{key}=2" for stage in (0, 1) for key in ("problems", "samples")]


def test_the_command_tunes_then_trains_and_reuses_all_of_it(scorl, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    plain = ["compare", "countdown", *TINY, "--methods", "score", "--seeds", "1", "--out", tmp_path, "--jobs", "2"]
    tuned = [*plain, "--tune", f"{KEY}=1e-9,3e-4"]
    code, out, _ = scorl(*tuned, "--dry-run")
    folders = [f"tune/score:{KEY}=1e-09/seed-1000", f"tune/score:{KEY}=0.0003/seed-1000", "score/seed-0"]
    assert (code, [line.partition(": score_")[0] for line in out.splitlines()[:3]]) == (
        0,
        [str(tmp_path / folder) for folder in folders],
    )
    assert "decide learner.learning_rate of the others" in out
    code, _, said = scorl(*tuned)
    assert code == 0, said
    choice = json.loads((tmp_path / "compare.json").read_text())["arms"]["score"]["tuned"]
    assert choice["validation"].keys() == {"1e-09", "0.0003"}
    assert len(set(choice["validation"].values())) == 1  # nothing is right within 8 tokens, so that all are equal
    assert f"SCoRe: {KEY} 0.0003, by final accuracy on the validation split" in said
    code, _, said = scorl(*tuned)
    assert code == 0
    assert "2 of 2 runs are there already" in said
    assert "1 of 1 runs are there already" in said
    code, _, said = scorl(*plain)
    assert code == 0
    assert "1 of 1 runs are there already" in said
