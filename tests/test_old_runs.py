"""Run directories of version 0.1.0 as it was before responses had roles and settings their present names."""

import json
import shutil

import pytest
import torch
from support.report_runs import read_page
from support.worlds import save_model

from scorl.cli import main
from scorl.errors import UserError
from scorl.recipe import resolve
from scorl.run.collected import FileRolloutStore
from scorl.run.directory import RunDirectory
from scorl.trajectory import Problem, user

RECIPE = """
seed: 3
model: {{path: "{model}", dtype: float32, device: auto, lora: null, chat_template: null}}
task:
  name: countdown
  split: train
  prompt: Reach {{target}} with the numbers {{numbers}}.
  correction: Write the steps again.
turns: {{name: correction, correction: null, critique: Review it., rewrite: Write it again.}}
engine: {{name: torch, temperature: 1.0, max_tokens: 4, batch_size: 256, answers: null, vllm: null}}
learner:
  optimizer: adam
  lr: 5.0e-06
  betas: [0.9, 0.999]
  schedule: constant
  warmup: 0
  clip: 1.0
  tokens_per_batch: 16384
  packing: tree
  checkpointing: false
  importance_cap: null
stages: [{{objective: score_stage_one, steps: 2, problems: 1, samples: 2, renew_reference: false, beta_2: 0.3}}]
evaluation: {{every: 0, problems: 2}}
checkpoint: {{every: 1, keep: 3}}
loggers: []
versions: {{scorl: 0.1.0, torch: 2.8.0, transformers: 5.0.0, python: 3.11.7}}
"""
STEP = {
    "step": 0,
    "stage": "score_stage_one",
    "objective": "score_stage_one",
    "accuracy_t1": 0.0,
    "accuracy_t2": 0.5,
    "delta": 0.5,
    "incorrect_to_correct": 0.5,
    "correct_to_incorrect": 0.0,
    "answer_changed": 0.5,
    "truncated": 0.0,
    "reward_t1": 0.0,
    "reward_t2": 0.5,
    "kl_t1": 0.0,
    "kl_t2": 0.0,
    "loss": -0.4,
    "grad_norm": 5.5,
    "lr": 5e-06,
    "beta_2": 0.3,
    "logprob_gap": 3e-07,
    "skipped": False,
    "tokens": 32,
    "seconds": {"sample": 0.1, "judge": 0.0, "learn": 0.1},
    "alarms": [],
}
ATTEMPT = {
    "step": 0,
    "problem": "countdown-1",
    "sample": 0,
    "turn": 0,
    "prompt_tokens": 14,
    "tokens": 8,
    "text": "9+2=10",
    "reward": 0.0,
    "finish": "stop",
    "policy": 0,
    "advantage": -0.5,
    "beta": 0.3,
    "imitation": 0.0,
    "verdict": "incorrect",
    "reason": "9+2 is 11",
    "answer": "9+2=10",
    "question": "Reach 11 with the numbers 9 2.",
    "branch": 0,
    "given": False,
    "critiques": [],
}
RIGHT = ATTEMPT | {"turn": 1, "text": "9+2=11", "reward": 1.0, "verdict": "correct", "answer": "9+2=11", "reason": ""}
METRICS = ("accuracy_t1", "accuracy_t2", "delta", "incorrect_to_correct", "correct_to_incorrect", "answer_changed")
EVALUATION = {
    "model": "tiny",
    "task": "countdown",
    "split": "test",
    "problems": 2,
    "attempts": 2,
    "temperature": 0.0,
    "samples": 1,
    "max_tokens": 4,
    "seed": 3,
    "metrics": {name: {"value": 0.0, "low": 0.0, "high": 0.5} for name in METRICS},
    "mcnemar_p": 1.0,
    "outcomes": {"countdown-1": "00", "countdown-2": "00"},
    "edit_ratios": {"countdown-1": 0.0, "countdown-2": 0.0},
    "step": 0,
}
COLLECTED = {
    "problem": "countdown-1",
    "sample": 0,
    "branch": 0,
    "ids": [1, 2, 3],
    "attempts": [{"from": 2, "to": 3, "text": "9+2=11", "finish": "stop", "reward": 1.0, "verdict": "correct"}],
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def run(model, tmp_path):
    """A run of two steps that was killed after the first."""
    run = tmp_path / "run"
    (run / "attempts").mkdir(parents=True)
    shutil.copytree(model, run / "checkpoints" / "step-1")
    trainer = run / "checkpoints" / "step-1" / "trainer"
    trainer.mkdir()
    torch.save({"updates": 1, "beta_2": 0.3, "weights": {}, "optimizer": {}}, trainer / "state.pt")
    (trainer / "training_reward.json").write_text("0.5")
    (run / "recipe.yaml").write_text(RECIPE.format(model=model))
    (run / "steps.jsonl").write_text(json.dumps(STEP) + "\n")
    (run / "attempts" / "step-000000.jsonl").write_text(json.dumps(ATTEMPT) + "\n" + json.dumps(RIGHT) + "\n")
    (run / "evaluation.json").write_text(json.dumps({"test": {**EVALUATION, "history": [EVALUATION]}}))
    return run


def scorl(capsys, *arguments):
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    return caught.value.code, *capsys.readouterr()


def test_old_runs_are_shown_reported_and_evaluated(run, capsys):
    code, out, _ = scorl(capsys, "show", run)
    assert code == 0
    assert "wrong, then right" in out
    assert scorl(capsys, "report", run)[0] == 0
    assert any("9+2 is 11" in text for text in read_page(run / "report.html")["attempts"][0]["strings"])
    code, out, err = scorl(capsys, "evaluate", run, "--limit", 2)
    assert code == 0, err
    assert "accuracy@t1" in out


def test_old_runs_start_a_new_one_from_their_recipe(run):
    recipe = resolve(run)
    assert (recipe.learner.learning_rate, recipe.checkpoint.save_steps, recipe.engine.max_tokens) == (5e-6, 1, 4)


@pytest.mark.parametrize("resume", ["--resume", "--resume=auto"])
def test_old_runs_are_not_resumed_and_say_what_to_do(run, resume, capsys):
    before = (run / "steps.jsonl").read_text()
    code, _, err = scorl(capsys, "train", run, resume)
    assert code == 2
    (line,) = [line for line in err.splitlines() if line.startswith("scorl: ")]
    assert "another version's" in line
    assert f"model.path={run / 'checkpoints' / 'step-1'}" in line
    assert "Traceback" not in err
    assert (run / "steps.jsonl").read_text() == before


def test_what_an_old_run_collected_is_not_taken(run):
    directory = RunDirectory(run)
    directory.record_collection(0, 0, [COLLECTED])
    store = FileRolloutStore(directory, lambda done, total: None)
    problem = Problem("countdown-1", (user("Reach 11 with the numbers 9 2."),), answer="9+2=11")
    with pytest.raises(UserError, match="collected by another version of scorl; delete it"):
        store.read(0, 0, [problem])
