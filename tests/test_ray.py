"""Ray carries a run across two nodes, and a lost worker or node costs time alone; `make test-ray` runs this."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.worlds import save_model

ray = pytest.importorskip("ray", reason="make test-ray")

RECIPE = """
model: {{path: "{model}", device: cpu}}
task: {{name: files, path: "{data}", test_path: "{data}", verifier: "{reward}:reward"}}
engine: {{max_tokens: 3}}
learner: {{learning_rate: 1.0e-3}}
stages: [{{objective: reinforce, steps: 30, problems: 4, samples: 4, attempts: 2}}]
evaluation: {{problems: 2}}
checkpoint: {{save_steps: 5}}
launcher: {{name: ray, workers: 2, timeout: 240}}
"""

REWARD = """
import os
from pathlib import Path

def reward(prompts, completions, answer, **columns):
    (Path("{pids}") / str(os.getpid())).touch()  # so that the test can find whom to kill
    return [float(text.strip() == right) for text, right in zip(completions, answer, strict=True)]
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipe")
    data = folder / "data.jsonl"
    data.write_text('{"problem": "say a", "answer": "a"}\n{"problem": "say b", "answer": "b"}\n')
    path, reward = folder / "recipe.yaml", folder / "reward.py"
    reward.write_text(REWARD.format(pids=folder / "pids"))
    (folder / "pids").mkdir()
    path.write_text(RECIPE.format(model=save_model(folder / "model"), data=data, reward=reward))
    return path


@pytest.fixture
def cluster():
    """Two nodes, each with room for one of the two workers."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    made.second = made.add_node(num_cpus=1)
    made.wait_for_nodes()
    yield made
    made.shutdown()


@pytest.fixture(scope="module")
def straight(recipe, tmp_path_factory):
    """The same run on two ranks of torchrun, which nothing disturbs."""
    run = tmp_path_factory.mktemp("straight") / "run"
    command = [sys.executable, "-m", "scorl", "train", str(recipe), "--out", str(run)]
    command[5:5] = ["launcher.name=torchrun", "launcher.workers=2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return run


def lines(run: Path) -> list[dict]:
    path = run / "steps.jsonl"
    return [{**json.loads(line), "seconds": None} for line in path.read_text().splitlines()] if path.exists() else []


def disturbed(cluster, recipe: Path, run: Path, disturb) -> str:
    """Run on the cluster, and disturb it when it is past its first checkpoint; what it said."""
    environment = {**os.environ, "RAY_ADDRESS": cluster.address, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "scorl", "train", str(recipe), "--out", str(run)]
    started = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    said: list[str] = []
    reader = threading.Thread(target=lambda: said.extend(started.stdout))
    reader.start()
    until = time.monotonic() + 600
    while started.poll() is None and len(lines(run)) < 12 and time.monotonic() < until:
        time.sleep(0.1)
    assert started.poll() is None, "".join(said)[-5000:]
    assert len(lines(run)) >= 12, "the run has not come far enough in 10 minutes: " + "".join(said)[-5000:]
    disturb()
    try:
        assert started.wait(max(1.0, until - time.monotonic())) == 0, "".join(said)[-5000:]
    finally:
        started.kill()
        reader.join()
    return "".join(said)


def same(run: Path, straight: Path) -> None:
    assert lines(run) == lines(straight)
    one, other = (load_file(place / "checkpoints" / "step-30" / "model.safetensors") for place in (run, straight))
    assert all(torch.equal(one[name], other[name]) for name in one)


def workers(recipe: Path) -> list[int]:
    """The processes that have judged and are alive."""
    pids = sorted(int(path.name) for path in (recipe.parent / "pids").iterdir())
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


@pytest.mark.timeout(1500)
def test_a_killed_worker_is_started_again_and_the_weights_are_the_same(cluster, recipe, straight, tmp_path):
    known: set[str] = set()

    def kill() -> None:
        known.update(path.name for path in (recipe.parent / "pids").iterdir())
        os.kill(workers(recipe)[0], signal.SIGKILL)

    disturbed(cluster, recipe, tmp_path / "run", kill)
    assert {path.name for path in (recipe.parent / "pids").iterdir()} > known  # others have taken over
    same(tmp_path / "run", straight)


@pytest.mark.timeout(1500)
def test_a_lost_node_is_replaced_and_the_weights_are_the_same(cluster, recipe, straight, tmp_path):
    def lose() -> None:
        cluster.remove_node(cluster.second, allow_graceful=False)
        cluster.add_node(num_cpus=1)

    disturbed(cluster, recipe, tmp_path / "run", lose)
    same(tmp_path / "run", straight)
