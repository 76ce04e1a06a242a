"""What stops a run before its first evaluation is written leaves a folder in which `--resume` begins anew."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from support.worlds import save_model

from scorl.cli import main
from scorl.run import directory

REWARD = """
import os, signal
def reward(prompts, completions, **columns):
    if "STOP" in os.environ:
        os.kill(os.getpid(), int(os.environ["STOP"]))
    return [float("a" in text) for text in completions]
"""
RECIPE = """
model: {{path: "{model}"}}
task: {{name: files, path: "{data}", test_path: "{data}", verifier: "{reward}"}}
engine: {{max_tokens: 3}}
stages: [{{objective: reinforce, steps: 2, problems: 2, samples: 2}}]
evaluation: {{problems: 2}}
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """A recipe whose first evaluation sends this process the signal STOP, where there is one."""
    folder = tmp_path_factory.mktemp("recipe")
    (folder / "data.jsonl").write_text('{"problem": "say a", "answer": "a"}\n{"problem": "say b", "answer": "b"}\n')
    (folder / "reward.py").write_text(REWARD)
    names = {"model": save_model(folder / "model"), "data": folder / "data.jsonl"}
    (folder / "recipe.yaml").write_text(RECIPE.format(**names, reward=f"{folder / 'reward.py'}:reward"))
    return folder / "recipe.yaml"


def content(run: Path) -> list[object]:
    lines = [json.loads(line) | {"seconds": None} for line in (run / "steps.jsonl").read_text().splitlines()]
    weights = load_file(run / "checkpoints" / "step-2" / "model.safetensors")
    return [lines, (run / "evaluation.json").read_text(), {n: w.numpy().tobytes() for n, w in weights.items()}]


def scorl(*arguments: object) -> int:
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    return int(caught.value.code or 0)


@pytest.fixture(scope="module")
def straight(recipe, tmp_path_factory):
    run = tmp_path_factory.mktemp("straight") / "run"
    assert scorl("train", recipe, "--out", run) == 0
    return content(run)


@pytest.fixture(scope="module", params=[signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda s: s.name)
def stopped(request, recipe, tmp_path_factory):
    """The folder that a run left which was stopped in its first evaluation."""
    run = tmp_path_factory.mktemp("stopped") / "run"
    command = [sys.executable, "-m", "scorl", "train", str(recipe), "--out", str(run)]
    environment = os.environ | {"STOP": str(int(request.param))}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == (-request.param if request.param == signal.SIGKILL else 130), done.stderr
    if request.param != signal.SIGKILL:
        assert f"stopped before the first step was saved; resume with: scorl train {run} --resume" in done.stderr
    return run


@pytest.mark.parametrize("how", ["the run", "the recipe", "auto"])
def test_it_begins_anew_and_says_so(stopped, recipe, straight, tmp_path, capsys, how):
    run = tmp_path / "run"
    shutil.copytree(stopped, run)
    (run / ".99.draft.evaluation.json").write_text("half")
    what = {"the run": [run, "--resume"], "the recipe": [recipe, "--out", run, "--resume"]}
    assert scorl("train", *what.get(how, [recipe, "--out", run, "--resume", "auto"])) == 0
    assert "ended before it had measured anything: begun anew" in capsys.readouterr().err
    assert content(run) == straight


def test_a_full_disk_is_a_sentence_and_the_run_resumes(recipe, straight, tmp_path, capsys, monkeypatch):
    write_whole = directory.write_whole

    def fail(path, text, durable=True):
        if path.name == "evaluation.json":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write_whole(path, text, durable)

    monkeypatch.setattr(directory, "write_whole", fail)
    assert scorl("train", recipe, "--out", tmp_path / "run") == 2
    sentence = f"cannot write {tmp_path / 'run' / 'evaluation.json'}: No space left on device. A run resumes with"
    assert sentence in capsys.readouterr().err
    monkeypatch.setattr(directory, "write_whole", write_whole)
    assert scorl("train", tmp_path / "run", "--resume") == 0
    assert content(tmp_path / "run") == straight


def test_where_nothing_was_started_there_is_nothing_to_resume(recipe, tmp_path, capsys):
    assert scorl("train", recipe, "--out", tmp_path / "run", "--resume") == 2
    assert f"{tmp_path / 'run'}: there is no run to resume" in capsys.readouterr().err
    (tmp_path / "run" / "ranks").mkdir(parents=True)
    assert scorl("train", tmp_path / "run", "--resume") == 2
    assert "holds no recipe.yaml, so no run was started there" in capsys.readouterr().err
