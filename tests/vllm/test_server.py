"""The engine `vllm` against vLLM itself: make test-vllm. The learner's side runs here, vLLM in .venv-vllm."""

import ast
import os
import signal
import socket
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
from scorl.engines.vllm.check import Probe
from scorl.engines.vllm.engine import VllmEngine
from scorl.engines.vllm.launch import ServedModel
from scorl.engines.vllm.server import server_environment
from scorl.errors import GuardError, UserError
from scorl.learner import Learner
from scorl.model.policy import Policy
from scorl.objectives import StageOne, Supervised
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
    text = engine.server.get("/metrics")
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))


def gap_of(engine):
    """Between the policy and the server that has just been sent it."""
    engine.load_weights()
    return engine.check_weights()


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


def test_a_stop_string_ends_a_response_in_the_server(policy, tmp_path):
    """Both servers agree on where; the one that has the tokenizer writes no token behind it."""
    policy.save(tmp_path)
    asked = requests(policy, 30)
    served = ServedModel.of(ModelSettings(str(tmp_path), stop_strings=("b a", "f")))
    engine = VllmEngine(served, SETTINGS)
    samples = engine.sample(asked, temperature=1.0, max_tokens=12)
    assert any("f" in engine.chat.show(s.ids[-1:]) for s in samples)
    for request, sample in zip(asked, samples, strict=True):
        assert plain(policy, request, sample.ids) == pytest.approx(sample.logprobs, abs=1e-4)
        assert engine.chat.find_end(sample.ids) in (None, len(sample.ids))
        assert (sample.finish == "stop") == engine.chat.ends(sample.ids)
        assert sample.finish == "stop" or len(sample.ids) == 12
    assert counted(engine, "vllm:generation_tokens_total") == sum(len(s.ids) for s in samples)
    engine.server.close()


def test_the_stale_head_is_caught_with_the_mend_off_and_mended_with_it_on(engine, policy):
    """A head tied to the embeddings keeps its packed weights through a transfer, and vLLM does no more than warn."""
    assert gap_of(engine) < 1e-4
    engine.sender.mend = False
    with moved(policy, by=0.01), pytest.raises(GuardError, match="stale output head") as caught:
        engine.sample(requests(policy, 1), temperature=1.0, max_tokens=1)
    print(caught.value)
    engine.sender.mend = True
    with moved(policy, by=0.01):
        assert gap_of(engine) < 1e-4


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
        "engine.load_weights()\nprint(engine.server.process.pid, engine.server.folder, flush=True)\n"
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
    os.killpg(engine.server.process.pid, signal.SIGKILL)
    with pytest.raises(GuardError, match=r"the vLLM server is gone: /inference/v1/generate got no answer"):
        engine.sample(requests(engine.model, 3), temperature=1.0, max_tokens=2)
    engine.server.close()


@pytest.mark.parametrize("merged", [False, True], ids=["as adapters", "merged"])
def test_adapters_learn_and_half_precision_stays_within_its_limit(tmp_path, merged):
    """A bfloat16 model, half of whose first attempts the reference writes."""
    path = tiny_policy(tmp_path, width=64).path
    policy = Policy(path, dtype="bfloat16", lora=LoraSettings(r=4))
    engine = VllmEngine(policy, replace(SETTINGS, merge_adapters=merged))
    learner = Learner(policy, LearnerSettings(learning_rate=1e-2, importance_sampling_cap=2.0), total=5)
    # Imitation moves the weights, whatever the attempts were worth.
    told, tried = (Stage(Supervised(), 1, 3, 1, attempts=1), Stage(StageOne(), 1, 3, 4, offline=0.5))
    steps = train(policy, letters(), [tried, told, tried, told, tried], engine=engine, learner=learner)
    lines = [step.line() for step in steps if step.batch.sync_gap is not None]
    print([line["sync_gap"] for line in lines], [line["logprob_gap"] for line in lines])
    assert len({line["sync_gap"] for line in lines}) == len(lines) == 3  # something crossed each time
    engine.server.close()


def test_adapters_in_float32_agree(tmp_path):
    policy = Policy(tiny_policy(tmp_path, width=64).path, lora=LoraSettings(r=4))
    engine = VllmEngine(policy, SETTINGS)
    gaps = [gap_of(engine)]
    for _ in range(2):
        for parameter in policy.parameters.values():
            parameter.data += 0.05 * torch.randn_like(parameter)
        gaps.append(gap_of(engine))
        (sample,) = engine.sample(requests(policy, 1), temperature=1.0, max_tokens=8)
        assert plain(policy, requests(policy, 1)[0], sample.ids) == pytest.approx(sample.logprobs, abs=1e-4)
    with policy.model.disable_adapter():
        gaps.append(gap_of(engine))
    assert max(gaps) < 1e-4
    engine.server.close()


def test_a_server_of_ones_own_by_its_address(policy, tmp_path):
    """Started as docs/vllm.md says, but for weights through a file, since there is no GPU."""
    policy.save(tmp_path)
    port, inside = 8017, ROOT / "src" / "scorl" / "engines" / "vllm" / "inside"
    flags = (
        f"-m vllm.entrypoints.openai.api_server --model {tmp_path} --port {port} --load-format dummy --dtype float32 "
        "--generation-config vllm --logprobs-mode processed_logprobs --skip-tokenizer-init --enable-scale-out "
        '--weight-transfer-config {"backend":"file"} --worker-extension-cls scorl_in_vllm.Extension '
        "--enforce-eager --no-enable-chunked-prefill --block-size 32"
    )
    variables = server_environment({"PATH": os.environ["PATH"]}, own_python=True) | {"PYTHONPATH": str(inside)}
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(
            [PYTHON, *flags.split()], env=variables, stdout=log, stderr=log, start_new_session=True
        )
    settings = VllmSettings(url=f"http://127.0.0.1:{port}")
    try:
        with pytest.raises(UserError, match="no vLLM server answers"):
            VllmEngine(policy, settings).load_weights()
        end = time.monotonic() + 600
        while not _listens(port):
            assert server.poll() is None, (tmp_path / "log").read_text()[-3000:]
            assert time.monotonic() < end
            time.sleep(1)
        engine = VllmEngine(policy, settings)
        assert gap_of(engine) < 1e-4
        with moved(policy, by=0.01):
            assert gap_of(engine) < 1e-4
    finally:
        server.terminate()
        server.wait(60)


def _listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


NCCL = """
import sys, torch
from contextlib import nullcontext
from types import SimpleNamespace
from vllm.distributed.weight_transfer import nccl_engine
from scorl.engines.vllm.nccl import NcclSender
log = []
class Server:
    def get(self, path):
        log.append(path)
        return {"world_size": 2}
    def post(self, path, body=None):
        log.append((path, body))
torch.cuda.device = lambda device: nullcontext()
nccl_engine.open_trainer_endpoint = lambda info: log.append(("endpoint", info.world_size)) or "group"
def broadcast(iterator, group, post_iter_func, **_):
    log.append(("broadcast", group, [tuple(post_iter_func(item).shape) for item in iterator]))
nccl_engine.packed_nccl_broadcast_producer = broadcast
weights = {"a": torch.ones(2, 3), "b": torch.ones(4)}
policy = SimpleNamespace(device=torch.device("cpu"), weights=lambda: iter(weights.items()))
sender = NcclSender(Server(), policy, None)
sender.send()
print(log)
"""


def test_the_sender_of_vllms_nccl_transfer_is_called_as_it_wants():
    """With vLLM's own classes; a broadcast alone is pretended, for which there is no GPU here."""
    variables = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([PYTHON, "-c", NCCL], check=False, capture_output=True, text=True, env=variables)
    assert done.returncode == 0, done.stderr[-3000:]
    told = ast.literal_eval(done.stdout.splitlines()[-1])
    assert told[0] == "/get_world_size"
    (start,) = [body["init_info"] for path, body in told[1:3] if path == "/init_weight_transfer_engine"]
    assert (start["master_address"], start["rank_offset"], start["world_size"]) == ("127.0.0.1", 1, 3)
    routes = [entry[0] for entry in told[3:]]
    assert (routes[0], routes[-1], set(routes[1:-1])) == (
        "/start_weight_update",
        "/finish_weight_update",
        {"/update_weights", "broadcast"},
    )
    (update,) = [body["update_info"] for path, body in [e[:2] for e in told[3:]] if path == "/update_weights"]
    assert update == {"names": ["a", "b"], "dtype_names": ["float32"] * 2, "shapes": [[2, 3], [4]]}
    assert ("broadcast", "group", [(2, 3), (4,)]) in told


def test_twenty_steps_on_smollm2_and_the_fault_in_the_next():
    """Sampler and learner stay as close as rounding lets them. Then the tied head is no longer mended, and the check
    stops the run after one update.
    """
    built = build(resolve(Path(__file__).with_name("smollm2.yaml"), [f"engine.python={PYTHON}"]))
    steps = built.train(built.learner())
    start = Probe.of(built.policy, None).logprobs
    lines = []
    for step in islice(steps, 20):
        lines.append(step.line())
        print({key: lines[-1][key] for key in ("step", "sync_gap", "logprob_gap", "tokens", "seconds")}, flush=True)
    assert max(line["sync_gap"] for line in lines) < 2e-4
    assert max(line["logprob_gap"] for line in lines) < 1e-4
    end = Probe.of(built.policy, None).logprobs
    assert (end - start).abs().max() > 1e-2  # it did learn
    built.engine.sender.mend = False
    with pytest.raises(GuardError, match="stale output head") as caught:
        next(steps)
    print(caught.value)
    built.engine.server.close()
