"""What needs a GPU, in ten minutes, the doubtful first: make test-gpu.

vLLM is looked for in .venv-vllm, or where SCORL_VLLM_PYTHON says; without it, or with one GPU where two are wanted, a
test is skipped and says so. `-rA` prints what ran.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.engine_contract import moved, plain, requests, shaken
from support.half_gradients import examples, gradient
from support.worlds import letters, save_model, tiny_policy

from scorl.engines.vllm.engine import VllmEngine
from scorl.learner import Learner
from scorl.model.policy import Policy
from scorl.objectives import StageOne
from scorl.settings import LearnerSettings, VllmSettings
from scorl.training.loop import train
from scorl.training.stage import Stage

ROOT = Path(__file__).parents[2]
PYTHON = os.environ.get("SCORL_VLLM_PYTHON", str(ROOT / ".venv-vllm" / "bin" / "python"))
SETTINGS = VllmSettings(python=PYTHON, gpu_memory_utilization=0.3, enable_sleep_mode=True, batch_size=16)
GPUS = torch.cuda.device_count()

pytestmark = [
    pytest.mark.skipif(GPUS == 0, reason="torch sees no GPU here"),
    pytest.mark.timeout(600),
]
vllm = pytest.mark.skipif(not Path(PYTHON).exists(), reason=f"no vLLM: {PYTHON} does not exist (SCORL_VLLM_PYTHON)")
two = pytest.mark.skipif(GPUS < 2, reason="wants two GPUs")


@vllm
def test_weights_cross_by_ipc_and_are_checked(tmp_path):
    policy = shaken(tiny_policy(tmp_path, width=64))
    engine = VllmEngine(policy, SETTINGS)
    try:
        for by in (0.0, 0.05):
            with moved(policy, by=by):
                engine.load_weights()
                assert engine.check_weights() < 1e-2
                asked = requests(policy, 6)
                for request, sample in zip(asked, engine.sample(asked, temperature=1.0, max_tokens=8), strict=True):
                    assert plain_on(policy, request, sample.ids) == pytest.approx(sample.logprobs, abs=1e-2)
    finally:
        engine.server.close()


def plain_on(policy, request, ids):
    """See `support.engine_contract.plain`, which asks a model on the CPU."""
    device = policy.device
    policy.model.to("cpu")
    try:
        return plain(policy, request, ids)
    finally:
        policy.model.to(device)


RECIPE = """
model: {{path: "{model}", dtype: bfloat16}}
task: {{name: files, path: "{data}", test_path: "{data}", verifier: "{reward}"}}
engine: {{name: vllm, python: "{python}", max_tokens: 3, gpu_memory_utilization: 0.3, enable_sleep_mode: true}}
learner: {{importance_sampling_cap: 2}}
stages: [{{objective: score_stage_one, steps: 3, problems: 4, samples: 4}}]
evaluation: {{problems: 2}}
launcher: {{name: torchrun, workers: 2, parallel: fsdp2, timeout: 60}}
"""


def recipe(folder, reward):
    (folder / "data.jsonl").write_text('{"problem": "say a", "answer": "a"}\n{"problem": "say b", "answer": "b"}\n')
    (folder / "reward.py").write_text(reward)
    text = RECIPE.format(
        model=save_model(folder / "model", width=64),
        data=folder / "data.jsonl",
        reward=f"{folder / 'reward.py'}:reward",
        python=PYTHON,
    )
    (folder / "recipe.yaml").write_text(text)
    return folder / "recipe.yaml"


def scorl(*arguments):
    command = [sys.executable, "-m", "scorl", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=500)


HALF = "def reward(prompts, completions, **columns):\n    return [len(c) % 2 for c in completions]\n"


@two
@vllm
def test_fsdp2_on_two_ranks_hands_its_weights_over(tmp_path):
    done = scorl("train", recipe(tmp_path, HALF), "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr[-5000:]


@vllm
def test_the_server_wakes_behind_a_step_of_learning(tmp_path):
    policy = Policy(save_model(tmp_path, width=64), dtype="bfloat16")
    engine = VllmEngine(policy, SETTINGS)
    learner = Learner(policy, LearnerSettings(learning_rate=1e-3, importance_sampling_cap=2.0), total=3)
    stages = [Stage(StageOne(), steps=3, problems=3, samples=4)]
    try:
        steps = list(train(policy, letters(), stages, engine=engine, learner=learner))
    finally:
        engine.server.close()
    print([step.progress.logprob_gap for step in steps])
    assert len(steps) == 3


@pytest.mark.parametrize("way", ["trees", "trees, checkpointing", "rows"])
@pytest.mark.parametrize(("dtype", "limit"), [("float32", 5e-3), ("bfloat16", 0.03)])
def test_attention_on_the_gpu_has_the_gradient_of_the_cpu(tmp_path, way, dtype, limit):
    """Trees attend by `flex_attention` where it is there, forward and backward."""
    path = save_model(tmp_path, width=64)
    rows = examples(Policy(path, device="cpu"))
    truth, _ = gradient(path, "float32", rows, "rows")
    found, _ = gradient(path, dtype, rows, way, device="cuda")
    errors = {name: float((found[name] - truth[name]).norm() / truth[name].norm()) for name in truth}
    print(max(errors.values()))
    assert max(errors.values()) < limit


def test_ligers_layers_have_the_gradient_of_others(tmp_path):
    """Last of these: Liger exchanges the layers of every model of the process."""
    pytest.importorskip("liger_kernel", reason="no Liger here: pip install 'scorl[liger]'")
    path = save_model(tmp_path, width=64)
    rows = examples(Policy(path, device="cpu"))
    truth, _ = gradient(path, "float32", rows, "rows")
    found, _ = gradient(path, "bfloat16", rows, "trees, Liger", device="cuda")
    errors = {name: float((found[name] - truth[name]).norm() / truth[name].norm()) for name in truth}
    print(max(errors.values()))
    assert max(errors.values()) < 0.03


@two
def test_a_rank_that_does_not_come_is_told_in_a_sentence(tmp_path):
    stall = "import os, time\ndef reward(prompts, completions, **columns):\n"
    stall += "    os.environ['RANK'] == '1' and time.sleep(300)\n    return [0.5] * len(completions)\n"
    path = recipe(tmp_path, stall)
    done = scorl("train", path, "--out", tmp_path / "run", "engine.name=torch", "launcher.timeout=20")
    assert done.returncode == 1
    assert "in vain" in done.stderr, done.stderr[-3000:]


def test_the_demo_learns_in_half_precision(tmp_path):
    short = ["stages.0.steps=20", "stages.1.steps=20", "evaluation.problems=40"]
    run = ["train", "countdown", "--out", tmp_path / "run", "engine.name=torch", "model.dtype=bfloat16", *short]
    done = scorl(*run)
    assert done.returncode == 0, done.stderr[-5000:]
    print(done.stdout[-1500:])
