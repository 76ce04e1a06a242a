"""Methods that came after the paper as arms: what they train, what they deploy, and at equal sampled tokens."""

import json
from dataclasses import replace

import pytest
from test_compare import RECIPE, finished
from transformers import AutoTokenizer

from scorl.compare import METHODS, parse_arms, plan_runs, summarize_runs, tabulate_comparison, tabulate_equal_tokens
from scorl.compare.jobs import _share_collected
from scorl.metrics import outcomes, tally_outcomes, tokens
from scorl.model.chat import Chat
from scorl.model.context import check_context, max_positions
from scorl.model.loading import load_config, load_pretrained
from scorl.objectives import PAG, UFO, OutcomeLevel, ProcessLevel, Reinforce, RejectionSampling, StageOne
from scorl.recipe import resolve
from scorl.tasks.turns import Correction, Verification
from scorl.trajectory import Problem, Response, Trajectory, Verdict

LATER = [name for name, method in METHODS.items() if not method.in_paper]


def arm(name):
    return METHODS[name].of(RECIPE)


def test_only_the_papers_methods_are_compared_by_default():
    assert {a.method for a in parse_arms(None)}.isdisjoint(LATER)
    assert {a.method for a in parse_arms(",".join(LATER))} == set(LATER)


@pytest.mark.parametrize("name", LATER)
def test_every_arm_makes_as_many_updates(name):
    assert sum(stage.steps for stage in arm(name).stages) == sum(stage.steps for stage in RECIPE.stages)


def test_what_each_arm_trains():
    assert [type(s.objective) for s in arm("pag").stages] == [PAG]
    assert isinstance(arm("pag").turns, Verification)
    assert arm("pag").stages[0].objective.beta_1 == RECIPE.stages[1].objective.beta_1
    assert [type(s.objective) for s in arm("s2r").stages] == [RejectionSampling, ProcessLevel]
    assert [type(s.objective) for s in arm("self_rewarding").stages] == [RejectionSampling, OutcomeLevel]
    assert [s.steps for s in arm("s2r").stages] == [RECIPE.stages[0].steps, RECIPE.stages[1].steps]
    for name in ("s2r", "s2r_outcome", "self_rewarding"):  # RL stays near what imitation made
        assert [s.reset_reference for s in arm(name).stages] == [False, True]
    assert isinstance(arm("ufo").turns, Correction)
    assert [type(s.objective) for s in arm("ufo").stages] == [UFO]
    assert arm("grpo").stages[0].objective == Reinforce(beta_1=0.01, scale_rewards="group")
    assert arm("grpo").stages[0].attempts == 1
    (stage,) = arm("best_draft").stages
    assert (stage.first, stage.branches, stage.samples) == ("best", 8, 8)
    assert stage.objective == StageOne(beta_1=0, beta_2=0)


def test_arms_that_verify_keep_the_recipes_words_for_the_next_attempt():
    mine = replace(RECIPE, turns=Correction("Look again."))
    assert METHODS["pag"].of(mine).turns == Verification(correction="Look again.")
    given = Verification(verification="True?")
    assert METHODS["pag"].of(replace(RECIPE, turns=given)).turns == given


@pytest.mark.parametrize("name", ["countdown", "functions", "hasty", "verify"])
def test_every_arm_of_the_paper_can_be_asked_of_the_shipped_bases(name):
    recipe = resolve(name)
    chat = Chat.of_model(recipe.model, load_pretrained(AutoTokenizer, recipe.model.path))
    positions = max_positions(load_config(recipe.model.path))
    for asked in {arm.recipe(recipe).turns: arm.recipe(recipe) for arm in parse_arms(None)}.values():
        task = asked.build_task()
        problems = task.split("test").draw(20, 0, 0)
        check_context(chat, problems, task.turns(2), asked.engine.sampling, positions)  # raises where none fits


def test_when_each_policy_stops(tmp_path):
    runs = plan_runs(RECIPE, parse_arms("base,single_turn,score,self_refine,pag,ufo"), 1, tmp_path / "a")
    assert {run.arm.name: run.ending for run in runs} == {
        "base": "first",
        "single_turn": "first",
        "score": "last",
        "self_refine": "last",
        "pag": "verification",
        "ufo": "verifier",
    }
    (once,) = plan_runs(RECIPE, parse_arms("multi_turn:stages.0.attempts=1"), 1, tmp_path / "once")
    assert once.ending == "first"
    asked = replace(RECIPE, turns=Verification())
    runs = plan_runs(asked, parse_arms("base,single_turn,score,ufo"), 1, tmp_path / "b")
    assert {run.arm.name: run.ending for run in runs} == {
        "base": "verification",
        "single_turn": "first",
        "score": "verification",
        "ufo": "verifier",
    }


def test_a_critique_has_its_tokens():
    critique = Response((1,), (2, 3), (0.0, 0.0), "", "stop", role="critique")
    first, second = (Response((1,), (2,), (0.0,), "", "stop", Verdict(r, "", answer=str(r))) for r in (0.0, 1.0))
    group = [Trajectory(Problem("p", ()), 0, (first, critique, second))]
    assert outcomes([group]) == {"p": "0c1*"}
    values = tally_outcomes(outcomes([group]), tokens=tokens([group]), ending="last").values()
    assert (values["accuracy_final"], values["tokens_final"]) == (1, 4)


def test_an_older_file_does_not_say_where_a_verifier_stopped():
    values = tally_outcomes({"p": "01"}, ending="verification").values()
    assert values["accuracy_final"] is None


@pytest.mark.parametrize(
    ("word", "final", "tokens"),
    [("0w1*", 1, 42), ("1r0*", 1, 12), ("0r1*", 0, 12), ("1w0*", 0, 42)],
)
def test_what_a_policy_with_a_verifier_deploys(word, final, tokens):
    values = tally_outcomes({"p": word}, tokens={"p": "10+2+30"}, ending="verification").values()
    assert (values["accuracy_final"], values["tokens_final"]) == (final, tokens)
    assert values["delta_final"] == final - int(word[0])  # Delta counts what is never come to
    assert values["accuracy_selective"] == final


@pytest.mark.parametrize(("ending", "final", "tokens"), [("first", 0, 10), ("last", 0, 70), ("verifier", 1, 30)])
def test_what_other_policies_deploy(ending, final, tokens):
    values = tally_outcomes({"p": "010*"}, tokens={"p": "10+20+40"}, ending=ending).values()
    assert (values["accuracy_final"], values["tokens_final"]) == (final, tokens)


ANSWERS = {"base": "00", "multi_turn": "11", "score": "01*", "pag": "0w1*", "ufo": "01*", "single_turn": "10*"}


def runs_of(out, **evaluated):
    runs = plan_runs(RECIPE, parse_arms(",".join(ANSWERS)), 1, out)
    for run in runs:
        finished(run, {f"p{i}": ANSWERS[run.arm.method] for i in range(9)}, **evaluated)
    return runs


def test_the_table_says_what_each_policy_deploys(tmp_path):
    runs = runs_of(tmp_path, tokens="10+5+20")
    comparison = summarize_runs(runs)
    grid = tabulate_comparison(comparison)
    rows = {row[0]: dict(zip(grid.header, row, strict=True)) for row in grid.rows}
    finals = {name: float(row["final"].split()[0]) for name, row in rows.items()}
    assert finals == {
        "base": 0,
        "multi-turn RL": 100,
        "SCoRe": 100,
        "PAG": 100,
        "UFO, told when wrong": 100,
        "single-turn RL": 100,
    }
    assert rows["PAG"]["tokens"] == "35"
    assert rows["single-turn RL"]["tokens"] == "10"
    assert rows["PAG"]["verifier"].startswith("100.0")
    assert rows["PAG"]["recall wrong"].startswith("100.0")
    assert rows["PAG"]["recall right"] == rows["SCoRe"]["verifier"] == ""
    assert "final - SCoRe" in grid.header
    assert comparison.equal_tokens is None  # nothing was evaluated on the way
    plain = summarize_runs([run for run in runs if run.arm.method in ("base", "score")])
    assert "final" not in tabulate_comparison(plain).header


def test_at_equal_sampled_tokens(tmp_path):
    """PAG samples 150 tokens a step and the others 100 or fewer; evaluations after 0, 60, 120 and 240 steps."""
    runs = runs_of(tmp_path)
    spent = {"multi_turn": 100, "score": 100, "pag": 150, "ufo": 100, "single_turn": 50}
    for run in runs:
        if not run.recipe.stages:
            continue
        path = run.directory / "evaluation.json"
        entry = json.loads(path.read_text())["test"]
        entry.pop("history")
        history = [{**entry, "step": step, "outcomes": dict.fromkeys(entry["outcomes"], "00")} for step in (0, 60, 120)]
        path.write_text(json.dumps({"test": {**entry, "history": [*history, entry]}}))
        lines = [
            {"step": s, "stage": "reinforce", "objective": "reinforce", "tokens": spent[run.arm.method]}
            for s in range(run.recipe.steps)
        ]
        (run.directory / "steps.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    equal = summarize_runs(runs).equal_tokens
    assert equal is not None
    assert equal.budget == 240 * 50
    found = {row.arm.method: (row.steps, row.tokens, row.metrics["accuracy_t2"].value) for row in equal.rows}
    assert found["score"] == (120, 12_000, 0.0)
    assert found["pag"] == (60, 9_000, 0.0)
    assert found["single_turn"] == (240, 12_000, 0.0)
    grid = tabulate_equal_tokens(equal)
    assert grid.title == "At equal sampled tokens: at most 12,000"
    assert grid.header[:3] == ("method", "updates", "sampled tokens")
    assert grid.rows[[row[0] for row in grid.rows].index("PAG")][1:3] == ("60", "9,000")
    json.dumps(equal.as_dict())

    lines[0] |= {
        "stage": "one",
        "collected": {"tokens": 30_000, "trajectories": 9, "examples": 9},
    }  # of the run that is last in the list: it collects before it learns
    (runs[-1].directory / "steps.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    without = summarize_runs(runs).equal_tokens
    assert without is not None
    assert [arm.name for arm in without.left_out] == [runs[-1].arm.name]
    assert f"before their first evaluation: {runs[-1].arm.label}" in tabulate_equal_tokens(without).notes[-1]


def test_a_run_that_lost_the_record_of_a_step_does_not_count_at_equal_tokens(tmp_path):
    lost, *others = runs = plan_runs(RECIPE, parse_arms("multi_turn,score,single_turn"), 1, tmp_path)
    lines = [json.dumps({"step": s, "stage": "one", "tokens": 10}) + "\n" for s in range(RECIPE.steps)]
    for run in runs:
        finished(run, {"p": "01"})
        (run.directory / "steps.jsonl").write_text("".join(lines[run is lost :]))
    equal = summarize_runs(runs).equal_tokens
    assert equal is not None
    assert [arm.method for arm in equal.left_out] == ["multi_turn"]
    assert [row.arm for row in equal.rows] == [run.arm for run in others]


def test_only_arms_that_ask_alike_share_what_the_base_was_asked(tmp_path):
    runs = plan_runs(RECIPE, parse_arms("star,pair_sft,s2r,self_rewarding"), 1, tmp_path)
    for run in runs:
        run.directory.mkdir(parents=True)
        _share_collected(run, run.recipe, tmp_path)
    star, pair, s2r, rewarding = (run.files.collected(0).resolve() for run in runs)
    assert star == pair != s2r == rewarding
