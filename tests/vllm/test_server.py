"""The engine `vllm` against vLLM itself: make test-vllm. The learner's side runs here, vLLM in .venv-vllm."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from support.engine_contract import SamplesAPolicy, moved, plain, requests, shaken
from support.worlds import letters, tiny_policy

from scorl.engines import Request
from scorl.engines.vllm.check import policy_logprobs, probe_ids
from scorl.engines.vllm.engine import VllmEngine
from scorl.engines.vllm.launch import ServedModel
from scorl.errors import GuardError
from scorl.learner import Learner
from scorl.model.policy import Policy
from scorl.objectives import StageOne
from scorl.recipe import resolve
from scorl.run.build import build
from scorl.settings import LearnerSettings, LoraSettings, ModelSettings, VllmSettings
from scorl.training.loop import train
from scorl.training.stage import Stage

ROOT = Path(__file__).parents[2]
PYTHON = os.environ.get("SCORL_VLLM_PYTHON", str(ROOT / ".venv-vllm" / "bin" / "python"))
SETTINGS = VllmSettings(python=PYTHON)
pytestmark = pytest.mark.timeout(3600)


def counted(engine, name):
    """One of the server's own counters."""
    text = engine.server._call("GET", "/metrics", None, 60.0)[1].decode()
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return shaken(tiny_policy(tmp_path_factory.mktemp("model"), width=64))


@pytest.fixture(scope="module")
def engine(policy):
    engine = VllmEngine(policy, replace(SETTINGS, batch_size=16))
    yield engine
    engine.server.close()


class TestContract(SamplesAPolicy):
    draws = 1000


def test_a_model_that_is_not_trained_is_sampled_without_sending_weights(policy, tmp_path):
    policy.save(tmp_path)
    engine = VllmEngine(ServedModel.of(ModelSettings(str(tmp_path))), SETTINGS)
    asked = requests(policy, 9)
    for request, sample in zip(asked, engine.sample(asked, temperature=1.0, max_tokens=8), strict=True):
        assert plain(policy, request, sample.ids) == pytest.approx(sample.logprobs, abs=1e-4)
    engine.server.close()


def test_the_stale_head_is_caught_with_the_mend_off_and_mended_with_it_on(engine, policy):
    """A head tied to the embeddings keeps its packed weights through a transfer, and vLLM does no more than warn."""
    assert engine.load_weights() < 1e-4
    engine.mend = False
    with moved(policy, by=0.01), pytest.raises(GuardError, match="stale output head") as caught:
        engine.sample(requests(policy, 1), temperature=1.0, max_tokens=1)
    print(caught.value)
    engine.mend = True
    with moved(policy, by=0.01):
        assert engine.load_weights() < 1e-4


def test_a_prefix_is_computed_once(engine, policy):
    prompt = (4, 5, 6, 7) * 20
    before = counted(engine, "vllm:prefix_cache_hits_total")
    engine.sample([Request(prompt, 0)], temperature=1.0, max_tokens=4, keep=True)
    engine.sample([Request((*prompt, 8), 1)], temperature=1.0, max_tokens=4)
    assert counted(engine, "vllm:prefix_cache_hits_total") - before >= 64  # two blocks of 32


def test_the_server_ends_with_a_killed_parent(policy, tmp_path):
    program = (
        "import os, sys\nfrom pathlib import Path\nfrom support.worlds import tiny_policy\n"
        "from scorl.engines.vllm.engine import VllmEngine\nfrom scorl.settings import VllmSettings\n"
        "engine = VllmEngine(tiny_policy(Path(sys.argv[1]), width=64), VllmSettings(python=sys.argv[2]))\n"
        "engine.load_weights()\nprint(engine.server._process.pid, engine.server.folder, flush=True)\n"
        "os.kill(os.getpid(), 9)"
    )
    run = [sys.executable, "-c", program, str(tmp_path), PYTHON]
    variables = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    pid, folder = subprocess.run(run, check=False, capture_output=True, text=True, env=variables).stdout.split()[-2:]
    end = time.monotonic() + 60
    while subprocess.run(["pgrep", "-g", pid], check=False, capture_output=True).stdout:
        assert time.monotonic() < end
        time.sleep(0.5)
    assert not Path(folder).exists()


def test_a_killed_server_stops_the_run_with_one_clear_error(tmp_path):
    engine = VllmEngine(tiny_policy(tmp_path, width=64), SETTINGS)
    engine.load_weights()
    os.killpg(engine.server._process.pid, signal.SIGKILL)
    with pytest.raises(GuardError, match=r"the vLLM server is gone: /inference/v1/generate got no answer"):
        engine.sample(requests(engine.model, 3), temperature=1.0, max_tokens=2)
    engine.server.close()


def test_adapters_cross_merged_and_half_precision_stays_within_its_limit(tmp_path):
    """A bfloat16 model with adapters, which learn."""
    path = tiny_policy(tmp_path, width=64).path
    policy = Policy(path, dtype="bfloat16", lora=LoraSettings(r=4))
    engine = VllmEngine(policy, SETTINGS)
    learner = Learner(policy, LearnerSettings(learning_rate=1e-2, importance_sampling_cap=2.0), total=3)
    stages = [Stage(StageOne(), steps=3, problems=3, samples=4, offline=0.5)]
    lines = [step.line() for step in train(policy, letters(), stages, engine=engine, learner=learner)]
    print([line["sync_gap"] for line in lines], [line["logprob_gap"] for line in lines])
    assert len({line["sync_gap"] for line in lines}) == 3  # something crossed each time
    engine.server.close()


def test_twenty_steps_on_smollm2_and_the_fault_in_the_next():
    """Sampler and learner stay as close as rounding lets them. Then the tied head is no longer mended, and the check
    stops the run after one update.
    """
    built = build(resolve(Path(__file__).with_name("smollm2.yaml"), [f"engine.python={PYTHON}"]))
    steps = built.train(built.learner())
    start = policy_logprobs(built.policy, probe_ids(built.policy, None))
    lines = []
    for step in islice(steps, 20):
        lines.append(step.line())
        print({key: lines[-1][key] for key in ("step", "sync_gap", "logprob_gap", "tokens", "seconds")}, flush=True)
    assert max(line["sync_gap"] for line in lines) < 2e-4
    assert max(line["logprob_gap"] for line in lines) < 1e-4
    end = policy_logprobs(built.policy, probe_ids(built.policy, None))
    assert (torch.tensor(end) - torch.tensor(start)).abs().max() > 1e-2  # it did learn
    built.engine.mend = False
    with pytest.raises(GuardError, match="stale output head") as caught:
        next(steps)
    print(caught.value)
    built.engine.server.close()
