"""The run directory is a contract, and a killed run resumes bit-for-bit."""

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.worlds import letters, letters_recipe, save_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from scorl.engines.torch import TorchEngine
from scorl.errors import UserError
from scorl.model.policy import Policy
from scorl.objectives import StageOne, StageTwo, Star, Supervised
from scorl.recipe import TaskChoice
from scorl.run import run as run_module
from scorl.run.build import BuiltRecipe
from scorl.run.directory import RunDirectory
from scorl.run.run import RunResult, run_recipe
from scorl.settings import CheckpointSettings, EvaluationSettings, LearnerSettings, LoraSettings
from scorl.tasks.files import Files
from scorl.training.stage import Stage

CONTRACT = [
    "step",
    "stage",
    "objective",
    "accuracy_t1",
    "accuracy_t2",
    "delta",
    "incorrect_to_correct",
    "correct_to_incorrect",
    "answer_changed",
    "kl_t1",
    "kl_t2",
    "loss",
    "grad_norm",
    "truncated",
    "tokens",
    "seconds",
]
ATTEMPT = [
    "step",
    "problem",
    "sample",
    "turn",
    "prompt_tokens",
    "tokens",
    "text",
    "reward",
    "finish",
    "policy",
    "advantage",
    "beta",
    "imitation",
]


def built(model: str, lora: bool = False) -> BuiltRecipe:
    """Nine steps over three stages, saved every second one; micro-batches so small that every step accumulates."""
    stages = (
        Stage(Supervised(), 2, problems=3, samples=1, attempts=1),
        Stage(StageOne(), 3, problems=2, samples=4, reset_reference=True),
        Stage(StageTwo(), 4, problems=2, samples=4),
    )
    recipe = replace(
        letters_recipe(model, stages, max_tokens=2),
        learner=LearnerSettings(
            learning_rate=1e-2, tokens_per_microbatch=20, lr_scheduler_type="cosine", warmup_steps=2
        ),
        evaluation=EvaluationSettings(eval_steps=3, problems=3),
        checkpoint=CheckpointSettings(save_steps=2, save_total_limit=2),
    )
    policy = Policy(model, lora=LoraSettings(r=2) if lora else None)
    return BuiltRecipe(recipe, policy, TorchEngine(policy), letters())


def run(folder: Path, recipe: BuiltRecipe, **listeners) -> RunResult:
    return run_recipe(recipe, RunDirectory(folder), **listeners)


def weights(folder: Path, step: int = 9) -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(folder / "checkpoints" / f"step-{step}").state_dict()


def content(folder: Path) -> list[str]:
    """All that a run wrote, but for its clock."""
    lines = [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]
    steps = [json.dumps({**line, "seconds": None}) for line in lines]
    attempts = [p.name + p.read_text() for kind in ("attempts", "held-out") for p in sorted((folder / kind).iterdir())]
    return [*steps, *attempts, (folder / "evaluation.json").read_text()]


def same(one: Path, other: Path) -> None:
    assert content(one) == content(other)
    a, b = weights(one), weights(other)
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module", params=[False, True], ids=["full", "lora"])
def lora(request):
    return request.param


@pytest.fixture(scope="module")
def straight(model, lora, tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    result = run(folder, built(model, lora))
    assert (result.steps, result.interrupted) == (9, False)
    return folder


def test_the_records_of_all_steps_are_copied_at_none(model, tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(run_module, "find_alarms", lambda lines: given.append(lines) or [])
    run(tmp_path / "run", built(model))
    assert [len(given[0])] + [id(lines) for lines in given] == [9] + [id(given[0])] * 9


def test_the_directory_is_the_contract(straight):
    names = {p.name for p in straight.iterdir()}
    assert names == {"recipe.yaml", "steps.jsonl", "attempts", "held-out", "checkpoints", "evaluation.json", ".lock"}
    lines = [json.loads(line) for line in (straight / "steps.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(9))
    assert all(key in line for line in lines for key in CONTRACT)
    assert set(lines[4]["seconds"]) == {"sample", "judge", "learn"}
    assert [line["objective"] for line in lines[1:3]] == ["supervised", "score_stage_one"]
    attempts = [json.loads(line) for line in (straight / "attempts" / "step-000004.jsonl").read_text().splitlines()]
    assert len(attempts) == 2 * 4 * 2
    assert all(list(line)[: len(ATTEMPT)] == ATTEMPT for line in attempts)
    history = json.loads((straight / "evaluation.json").read_text())["test"]["history"]
    assert [entry["step"] for entry in history] == [0, 3, 6, 9]
    directory = RunDirectory(straight)
    assert directory.attempted_steps(held_out=True) == [0, 3, 6, 9]
    for entry in history:
        right = [r["reward"] for r in directory.attempts([entry["step"]], held_out=True) if r["turn"] == 1]
        assert len(right) == 3
        assert sum(right) / 3 == entry["metrics"]["accuracy_t2"]["value"]


def test_checkpoints_load_anywhere_and_the_best_is_kept(straight):
    saved = {p.name for p in (straight / "checkpoints").iterdir()}
    assert {"step-8", "step-9", "best"} <= saved
    assert len(saved) <= 4
    best = straight / "checkpoints" / "best"
    tokenizer = AutoTokenizer.from_pretrained(best)
    assert tokenizer.decode(tokenizer("say a")["input_ids"]) == "say a"
    AutoModelForCausalLM.from_pretrained(best)


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_run import built, run
from scorl.learner import update

def die(line):
    if line["step"] == {step}:
        os.kill(os.getpid(), signal.SIGKILL)

def die_in_backward(*arguments, **options):
    die({{"step": learner_steps[0]}})
    return logprobs_and_kl(*arguments, **options)

learner_steps, logprobs_and_kl = [0], update.logprobs_and_kl
if {inside}:
    update.logprobs_and_kl = die_in_backward
def count(line):
    learner_steps[0] += 1
run(Path({out!r}), built({model!r}, {lora}), on_step=count if {inside} else die)
"""


@pytest.mark.parametrize(("step", "inside"), [(1, False), (2, False), (6, True)], ids=["boundary", "stage", "inside"])
def test_a_killed_run_resumes_bit_for_bit(straight, model, lora, tmp_path, step, inside):
    code = KILLED.format(
        tests=str(Path(__file__).parent),
        model=model,
        lora=lora,
        out=str(tmp_path / "run"),
        step=step,
        inside=inside,
    )
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    result = run(tmp_path / "run", built(model, lora))
    assert result.steps == 9
    same(straight, tmp_path / "run")


def test_ctrl_c_saves_after_the_step_and_the_run_resumes(straight, model, lora, tmp_path):
    def interrupt(line):
        if line["step"] == 4:
            signal.raise_signal(signal.SIGINT)

    result = run(tmp_path / "run", built(model, lora), on_step=interrupt)
    assert (result.steps, result.interrupted) == (5, True)
    assert (tmp_path / "run" / "checkpoints" / "step-5").is_dir()
    assert run(tmp_path / "run", built(model, lora)).steps == 9
    same(straight, tmp_path / "run")


def test_ctrl_c_in_an_evaluation_saves_at_once(straight, model, lora, tmp_path):
    seen = []

    def interrupt(what, done, total):
        seen.append(done)
        if len(seen) == 3:  # the evaluation after step 3, of which nothing is saved yet
            signal.raise_signal(signal.SIGINT)

    result = run(tmp_path / "run", built(model, lora), on_progress=interrupt)
    assert (result.steps, result.interrupted) == (3, True)
    assert (tmp_path / "run" / "checkpoints" / "step-3").is_dir()
    assert run(tmp_path / "run", built(model, lora)).steps == 9
    same(straight, tmp_path / "run")


@pytest.mark.parametrize(("save_steps", "collections"), [(2, 0), (9, 2)], ids=["its start was saved", "nothing was"])
def test_what_a_stage_collected_is_kept_where_the_policy_that_did_is(model, tmp_path, save_steps, collections):
    """From an earlier checkpoint, on another machine say, the stage may begin with another policy."""
    stages = (
        Stage(Supervised(), 2, problems=3, samples=1, attempts=1),
        Stage(Star(keep_right=True), 2, problems=3, samples=60),
    )
    told = []

    def die(line):
        if line["step"] == 2:
            raise RuntimeError("killed")

    def go(**listeners):
        whole = built(model)
        recipe = replace(whole.recipe, stages=stages, checkpoint=CheckpointSettings(save_steps=save_steps))
        return run(tmp_path / "run", replace(whole, recipe=recipe), **listeners)

    with pytest.raises(RuntimeError, match="killed"):
        go(on_step=die)
    before = [path.read_text() for path in sorted((tmp_path / "run" / "collected" / "stage-1").iterdir())]
    assert go(on_progress=lambda what, done, total: told.append(what)).steps == 4
    assert told.count("collection") == collections
    assert [path.read_text() for path in sorted((tmp_path / "run" / "collected" / "stage-1").iterdir())] == before


def test_what_a_kill_left_of_a_checkpoint_is_no_checkpoint(model, tmp_path):
    folder = tmp_path / "run" / "checkpoints"
    for name in (".step-4.draft", ".step-2.gone.draft"):
        (folder / name / "trainer").mkdir(parents=True)
    assert run(tmp_path / "run", built(model)).steps == 9
    assert not list(folder.glob(".*"))


def test_a_second_process_in_a_run_is_refused_and_touches_nothing(model, tmp_path):
    folder = tmp_path / "run"
    draft = folder / "checkpoints" / ".step-3.draft"
    draft.mkdir(parents=True)
    with RunDirectory(folder).lock(), pytest.raises(UserError, match="another process is at work there"):
        run(folder, built(model))
    assert draft.is_dir()  # the first one's checkpoint, half-written
    assert not (folder / "recipe.yaml").exists()


def test_a_resumed_run_says_that_its_data_or_reward_function_changed(model, tmp_path):
    data, reward = tmp_path / "own.jsonl", tmp_path / "r.py"
    task = TaskChoice("files", settings=Files(path=str(data), verifier=("math", f"{reward}:f")))
    whole = built(model)
    short = replace(whole, recipe=replace(whole.recipe, task=task, stages=whole.recipe.stages[:1]))
    said: list[str] = []
    for content_of_files in ("one", "one", "another"):
        data.write_text(content_of_files)
        reward.write_text(content_of_files)
        assert not said
        run(tmp_path / "run", short, notify=said.append)
    assert [str(path) in sentence for path, sentence in zip((data, reward), said, strict=True)] == [True, True]
