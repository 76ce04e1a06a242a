"""A run is made longer: what it has done stays, and it ends as if it had been that long from the start."""

from dataclasses import replace

import pytest
import torch
from support.worlds import letters, letters_recipe, save_model
from transformers import AutoModelForCausalLM

from scorl.cli import main
from scorl.engines.torch import TorchEngine
from scorl.model.policy import Policy
from scorl.objectives import Reinforce, StageOne, Star
from scorl.recipe import decide, is_longer, resolve
from scorl.run.build import BuiltRecipe
from scorl.run.directory import RunDirectory
from scorl.run.run import run_recipe
from scorl.settings import EvaluationSettings, LearnerSettings
from scorl.training.stage import Stage

ONE, TWO = Stage(StageOne(), 2, problems=2, samples=4), Stage(Reinforce(), 2, problems=2, samples=4)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"))


def built(model: str, *stages: Stage, **learner: object) -> BuiltRecipe:
    policy = Policy(model)
    recipe = replace(
        letters_recipe(model, stages, max_tokens=2),
        learner=LearnerSettings(learning_rate=1e-2, **learner),
        evaluation=EvaluationSettings(problems=3),
    )
    return BuiltRecipe(decide(recipe, policy.device, vllm=False), policy, TorchEngine(policy), letters())


def weights(run: RunDirectory, step: int) -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(run.checkpoint(step)).state_dict()


@pytest.mark.parametrize("longer", [(ONE, replace(TWO, steps=4)), (ONE, TWO, TWO)], ids=["steps", "stages"])
def test_a_finished_run_that_is_made_longer_ends_as_one_that_was_as_long(model, tmp_path, longer):
    run, straight = RunDirectory(tmp_path / "run"), RunDirectory(tmp_path / "straight")
    said: list[str] = []
    run_recipe(built(model, ONE, TWO), run)
    assert run_recipe(built(model, *longer), run, notify=said.append).steps == 6
    run_recipe(built(model, *longer), straight)
    assert said == []
    assert [line | {"seconds": None} for line in run.steps()] == [line | {"seconds": None} for line in straight.steps()]
    ours, theirs = weights(run, 6), weights(straight, 6)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    history = run.evaluations()["test"]["history"]
    assert [latest["step"] for latest in history] == [0, 4, 6]
    assert run.recipe_text() == straight.recipe_text()  # and so it resumes by itself


def test_a_learning_rate_that_falls_over_other_steps_is_said(model, tmp_path):
    said: list[str] = []
    for steps in (2, 3):
        stage = replace(TWO, steps=steps)
        run_recipe(built(model, stage, lr_scheduler_type="linear"), RunDirectory(tmp_path), notify=said.append)
    (sentence,) = said
    assert "falls over 3 steps now, and fell over 2 before" in sentence


def test_what_is_longer(model):
    def recipe(*stages):
        return letters_recipe(model, stages, max_tokens=2)

    star = Stage(Star(), 2, problems=2)
    started = recipe(ONE, TWO)
    assert is_longer(recipe(ONE, replace(TWO, steps=3)), started)
    assert is_longer(recipe(ONE, TWO, star), started)
    assert not is_longer(started, started)
    assert not is_longer(recipe(ONE), started)
    assert not is_longer(recipe(replace(ONE, steps=3), TWO), started)
    assert not is_longer(recipe(ONE, replace(TWO, steps=1)), started)
    assert not is_longer(recipe(ONE, replace(TWO, steps=3, samples=8)), started)
    assert not is_longer(replace(recipe(ONE, TWO, TWO), seed=1), started)
    assert not is_longer(recipe(replace(star, steps=3)), recipe(star))  # its steps share what it collected
    assert is_longer(recipe(star, TWO), recipe(star))
    assert not is_longer(recipe(), recipe())  # measured only, as a comparison's base model is


def test_the_command_takes_more_steps_and_refuses_others(model, tmp_path, capsys):
    def scorl(*arguments):
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        return caught.value.code, capsys.readouterr().err

    recipe, run = tmp_path / "tiny.yaml", tmp_path / "run"
    recipe.write_text(
        f"model: {{path: {model}}}\ntask: {{name: countdown}}\nengine: {{max_tokens: 2}}\n"
        "stages: [{objective: supervised, steps: 2, problems: 2}]\nevaluation: {problems: 2}\n"
    )
    assert scorl("train", recipe, "--out", run)[0] == 0
    code, err = scorl("train", run, "stages.0.steps=1", "--resume")
    assert code == 2
    assert "stages.0.steps: 2 against 1" in err
    assert "more steps of its last stage" in err
    assert scorl("train", run, "stages.0.steps=3", "--resume")[0] == 0
    assert scorl("train", run, "--resume")[0] == 0
    assert len(RunDirectory(run).steps()) == resolve(run).steps == 3
