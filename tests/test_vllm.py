"""The engine `vllm` against a server that is none: what is sent, what is checked, and how a server may fail.

tests/vllm runs the same contract, and more, against vLLM itself.
"""

import os
import signal
import subprocess
import sys
import tomllib
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.engine_contract import SamplesAPolicy, moved, requests, shaken
from support.pretended import Pretended
from support.processes import survivors
from support.worlds import letters, tiny_policy

from scorl.cli import main
from scorl.distributed.ranks import ALONE
from scorl.engines import ENGINES
from scorl.engines.reference import ReferenceEngine
from scorl.engines.torch import TorchEngine
from scorl.engines.vllm.engine import VllmEngine
from scorl.engines.vllm.installed import VERSIONS, check_installed
from scorl.engines.vllm.launch import PROGRAM, ServedModel, _command, start_server
from scorl.engines.vllm.server import Server, server_environment
from scorl.errors import GuardError, UserError
from scorl.learner import Learner
from scorl.objectives import StageOne
from scorl.recipe import resolve
from scorl.run.build import build
from scorl.settings import LearnerSettings, LoraSettings, ModelSettings, Sampling, VllmSettings
from scorl.training.loop import train
from scorl.training.stage import Stage


class TestProtocol(SamplesAPolicy):
    """The whole contract, through the protocol."""

    draws = 100

    @pytest.fixture(scope="class")
    @classmethod
    def policy(cls, tmp_path_factory):
        return shaken(tiny_policy(tmp_path_factory.mktemp("model"), width=64))

    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls, policy, tmp_path_factory):
        other = tiny_policy(tmp_path_factory.mktemp("other"), seed=5, width=64)
        return VllmEngine(policy, VllmSettings(batch_size=8), Pretended(other))


@pytest.fixture
def policy(tmp_path):
    return tiny_policy(tmp_path / "policy")


@pytest.fixture
def engine(policy, tmp_path):
    return VllmEngine(policy, server=Pretended(tiny_policy(tmp_path / "other", seed=5)))


class TestServedModel(SamplesAPolicy):
    """A model that the server loads by itself: the whole contract but for weights, of which none cross."""

    draws = 100

    @pytest.fixture(scope="class")
    @classmethod
    def policy(cls, tmp_path_factory):
        return shaken(tiny_policy(tmp_path_factory.mktemp("model"), width=64))

    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls, policy):
        model = ServedModel.of(ModelSettings(policy.path))
        return VllmEngine(model, VllmSettings(batch_size=8), Pretended(policy))

    def test_it_brings_the_chat_of_its_model(self, engine, policy):
        assert engine.chat.end_ids == policy.chat.end_ids
        engine.load_weights()
        assert engine.check_weights() is None
        assert set(engine.server.calls) <= {"/inference/v1/generate"}


def test_only_a_policys_server_starts_without_weights(policy, tmp_path, monkeypatch):
    commands = []
    monkeypatch.setattr("scorl.engines.vllm.launch.SHARED_MEMORY", str(tmp_path))
    monkeypatch.setattr("scorl.engines.vllm.launch.Server", lambda command, *unused: commands.append(command))
    served = ServedModel.of(ModelSettings(policy.path, dtype="bfloat16"))
    for model in (policy, served):
        start_server(model, VllmSettings(batch_size=8))
    ours, its_own = ({k: v for k, v in pairwise(c) if k.startswith("--")} for c in commands)
    assert ours.keys() - its_own.keys() == {"--load-format", "--weight-transfer-config", "--worker-extension-cls"}
    assert (its_own["--model"], its_own["--dtype"], its_own["--max-num-seqs"]) == (policy.path, "bfloat16", "8")
    assert Path(ours["--model"], "config.json").is_file()


def test_a_model_that_is_not_trained_is_loaded_by_the_server_alone(policy, monkeypatch):
    monkeypatch.setattr("scorl.model.policy.Policy.__init__", None)
    engine = ENGINES["vllm"].build(VllmSettings(), ModelSettings(policy.path), None, ALONE)
    assert isinstance(engine.model, ServedModel)
    assert (engine.model.path, engine.model.max_positions) == (policy.path, 128)


def test_stop_strings_are_the_servers_to_find_and_end_a_response_where_it_does_not(policy, tmp_path):
    """A server of one's own may have been started without the tokenizer: it goes on, and is cut."""
    stopping = replace(policy.chat, stop_strings=("b a", "f"))
    asked = requests(policy, 40)
    server, served = Pretended(policy), ServedModel.of(ModelSettings(policy.path, stop_strings=("b a", "f")))
    samples = VllmEngine(served, server=server).sample(asked, temperature=1.0, max_tokens=12)
    assert all(p["stop"] == ["b a", "f"] and p["detokenize"] for p in (b["sampling_params"] for b in server.bodies))
    whole = TorchEngine(policy).sample(asked, temperature=1.0, max_tokens=12)
    for sample, more in zip(samples, whole, strict=True):
        end = stopping.find_end(more.ids)
        assert sample.ids == more.ids[:end]
        assert sample.logprobs == pytest.approx(more.logprobs[:end], abs=1e-5)
        assert sample.finish == ("length" if end is None else "stop")
    assert any(len(s.ids) < len(m.ids) for s, m in zip(samples, whole, strict=True))
    command = _command(served, VllmSettings(), tmp_path)
    assert command[command.index("--tokenizer") + 1] == str(tmp_path)
    assert (tmp_path / "tokenizer.json").is_file()
    assert "--skip-tokenizer-init" in set(_command(policy, VllmSettings(), tmp_path)) - set(command)


def test_on_a_cpu_no_prompt_is_cut(policy, tmp_path):
    """vLLM takes the draw behind a part of a prompt back, which ends its engine where generators have no offset."""
    command = _command(policy, VllmSettings(), tmp_path)
    assert ("--no-enable-chunked-prefill" in command) == (policy.device.type == "cpu")


def test_the_commands_evaluate_with_vllm_and_load_no_weights(policy, tmp_path, monkeypatch, capsys):
    started = []

    def start(model, settings):
        started.append((model, settings))
        return Pretended(policy)

    monkeypatch.setattr("scorl.model.policy.Policy.__init__", None)
    monkeypatch.setattr("scorl.engines.check_installed", lambda python: None)
    monkeypatch.setattr("scorl.engines.vllm.engine.start_server", start)
    settings = ["engine.timeout=5", "model.dtype=bfloat16", "--engine", "vllm", "--limit", "3", "--max-tokens", "4"]
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", policy.path, "--task", "countdown", *settings])
    assert ended.value.code == 0
    assert "countdown (test): 3 problems" in capsys.readouterr().out
    (((model, settings)),) = started
    assert (model.path, model.dtype, settings) == (policy.path, torch.bfloat16, VllmSettings(timeout=5.0))


SENT = ["/start_weight_update", "/update_weights", "/finish_weight_update", "/reset_prefix_cache"]


def sent(engine):
    """How often weights were sent, each time in vLLM's four steps."""
    steps = [call for call in engine.server.calls if call in SENT]
    assert steps == SENT * (len(steps) // 4)
    return len(steps) // 4


def test_weights_are_sent_when_they_have_changed(engine, policy):
    for _ in range(2):
        engine.sample(requests(policy, 2), temperature=1.0, max_tokens=2)
    assert (engine.check_weights(), sent(engine)) == (pytest.approx(0, abs=1e-4), 1)
    with moved(policy):
        engine.load_weights()
    assert sent(engine) == 2
    (path,) = [body["update_info"]["path"] for body in engine.server.bodies[-4:] if "update_info" in (body or {})]
    assert not Path(path).parent.exists()  # shared memory is not left full


def test_the_reference_writes_with_its_own_weights(engine, policy):
    reference = Learner(policy, LearnerSettings(), total=1).reference
    asked = requests(policy, 6)
    as_reference = TorchEngine(policy).sample(asked, temperature=1.0, max_tokens=4)
    with moved(policy):
        own = engine.sample(asked, temperature=1.0, max_tokens=4)
        as_it_was = ReferenceEngine(engine, reference)
        assert as_it_was.chat is policy.chat
        theirs = as_it_was.sample(asked, temperature=1.0, max_tokens=4)
        again = engine.sample(asked, temperature=1.0, max_tokens=4)
    assert [s.ids for s in theirs] == [s.ids for s in as_reference] != [s.ids for s in own]
    assert [s.ids for s in again] == [s.ids for s in own]


@pytest.mark.parametrize("lora", [None, LoraSettings(r=2)], ids=["full", "lora"])
def test_what_is_sent_is_what_would_be_saved(tmp_path, lora):
    policy = tiny_policy(tmp_path / "base", lora=lora)
    before = {name: weight.clone() for name, weight in policy.weights()}
    for parameter in policy.parameters.values():
        parameter.data += 0.1
    policy.save(tmp_path / "saved")
    saved, weights = load_file(tmp_path / "saved" / "model.safetensors"), dict(policy.weights())
    assert weights.keys() == before.keys() == saved.keys()
    assert all(torch.allclose(weights[name], saved[name], atol=1e-6) for name in saved)
    assert not any(torch.equal(weights[n], before[n]) for n in saved if "q_proj" in n)
    if lora:
        with policy.model.disable_adapter():
            assert all(torch.equal(weight, before[name]) for name, weight in policy.weights())


def test_a_run_logs_what_each_transfer_took_and_how_far_it_was_off(engine, policy):
    stages = [Stage(StageOne(), steps=2, problems=3, samples=16)]  # some of which are right, or nothing would move
    learner = Learner(policy, LearnerSettings(learning_rate=1e-2, importance_sampling_cap=2.0), total=2)
    words = Sampling(max_tokens=1)
    lines = [step.line() for step in train(policy, letters(), stages, sampling=words, engine=engine, learner=learner)]
    assert all(0 <= line["sync_gap"] < 1e-4 and line["seconds"]["sync"] > 0 for line in lines)
    assert all(line["logprob_gap"] < 1e-4 for line in lines)
    assert sent(engine) == 2
    (line,) = [step.line() for step in train(policy, letters(), [replace(stages[0], steps=1)])]
    assert "sync_gap" not in line
    assert "sync" not in line["seconds"]


@pytest.mark.parametrize(("cap", "becomes"), [("auto", 2.0), (None, None), (1.5, 1.5)])
def test_what_vllm_samples_is_weighed_unless_one_says_otherwise(engine, policy, cap, becomes):
    learner = Learner(policy, LearnerSettings(importance_sampling_cap=cap), total=1)
    list(train(policy, letters(), [Stage(StageOne(), steps=1, problems=1, samples=2)], engine=engine, learner=learner))
    assert learner.settings.importance_sampling_cap == becomes
    assert learner.settings.with_cap_for("same").importance_sampling_cap == becomes
    assert LearnerSettings().with_cap_for("same").importance_sampling_cap is None


STAND_IN = """
import http.server, json, os, socketserver, sys, threading, time
folder, fault = sys.argv[1:]
print("hello from the log", flush=True)
if fault == "start": sys.exit("no such model")
if fault == "ready": time.sleep(60)
threading.Thread(target=lambda: (os.read(0, 1), os._exit(0)), daemon=True).start()
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self): self.reply(200, {})
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/hang": time.sleep(60)
        if self.path == "/die": os._exit(3)
        self.reply(400 if self.path == "/refuse" else 200, {"path": self.path, "body": body})
    def reply(self, status, answer):
        self.send_response(status); self.send_header("Content-Type", "application/json"); self.end_headers()
        self.wfile.write(json.dumps(answer).encode())
    def address_string(self): return ""
class Sockets(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    def handle_error(self, request, address): pass  # a client that gave up, on a busy machine, is no line of the log
Sockets(folder + "/socket", Handler).serve_forever()
"""


def stand_in(folder, fault="none", timeout=120.0):
    folder.mkdir()
    return Server([sys.executable, "-c", STAND_IN, str(folder), fault], folder, timeout, server_environment({}, False))


def test_a_server_answers_and_ends(tmp_path):
    server = stand_in(tmp_path / "s")
    assert server.post("/echo", {"a": [1]}) == {"path": "/echo", "body": {"a": [1]}}
    server.close()
    assert server.process.poll() == 0
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("fault", "timeout", "message"),
    [("start", 120.0, r"did not start; the process ended with code 1"), ("ready", 3.0, r"not ready within 3 s")],
)
def test_a_server_that_does_not_start_says_why(tmp_path, fault, timeout, message, monkeypatch):
    monkeypatch.setattr("scorl.engines.vllm.server.GRACE_SECONDS", 0.1)
    with pytest.raises(GuardError, match=rf"(?s){message}.*hello from the log"):
        stand_in(tmp_path / "s", fault, timeout)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/hang", r"did not answer /hang within 1 s \(engine.timeout\)"),
        ("/die", r"is gone: /die got no answer"),
        ("/refuse", r"refused /refuse with status 400"),
    ],
)
def test_a_server_that_fails_says_at_what(tmp_path, path, message):
    server = stand_in(tmp_path / "s")
    server.timeout = 1.0 if path == "/hang" else 60.0
    with pytest.raises(GuardError, match=rf"(?s){message}.*hello from the log"):
        server.post(path)
    server.close()


def test_a_server_ends_with_a_killed_parent(tmp_path):
    (tmp_path / "s").mkdir()
    program = (
        "import os, sys\nfrom pathlib import Path\nfrom scorl.engines.vllm.server import Server, server_environment\n"
        "server = Server(sys.argv[2:], Path(sys.argv[1]), 60.0, server_environment(os.environ, False))\n"
        "print(server.process.pid, flush=True)\nos.kill(os.getpid(), 9)"
    )
    command = [sys.executable, "-c", STAND_IN, str(tmp_path / "s"), "none"]
    parent = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "s"), *command], check=False, capture_output=True, text=True
    )
    assert not survivors([int(parent.stdout)], 120)


VLLM = {
    "distributed.weight_transfer.base": "class WeightTransferEngine: ...\n"
    "class WeightTransferInitInfo: ...\nclass WeightTransferUpdateInfo: ...",
    "distributed.weight_transfer.factory": "WeightTransferEngineFactory = None",
    "model_executor.layers.vocab_parallel_embedding": "ParallelLMHead = None",
    "model_executor.model_loader.reload": "finalize_layerwise_reload = initialize_layerwise_reload = None",
    "entrypoints.openai.api_server": "import time\ntime.sleep(60)",
}
"""As much of vLLM as `scorl_in_vllm` imports."""


def test_what_ends_with_its_parent_removes_its_own_folder_and_not_the_models(policy, tmp_path):
    for name, text in VLLM.items():
        file = Path(tmp_path, "path", "vllm", *name.split(".")).with_suffix(".py")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    folder = tmp_path / "server"
    folder.mkdir()
    command = [sys.executable, str(PROGRAM), "--model", policy.path, "--uds", str(folder / "socket")]
    variables = os.environ | {"PYTHONPATH": str(tmp_path / "path")}
    with subprocess.Popen(command, stdin=subprocess.PIPE, env=variables) as server:
        server.stdin.close()
        assert server.wait(timeout=60) == -signal.SIGTERM
    assert not folder.exists()
    assert Path(policy.path, "config.json").is_file()


def test_the_servers_environment():
    given = {"PATH": "p", "PYTHONPATH": "mine", "RANK": "1", "MASTER_ADDR": "h", "VLLM_CPU_KVCACHE_SPACE": "4"}
    for own, kept in ((True, {"PATH"}), (False, {"PATH", "PYTHONPATH"})):
        made = server_environment(given, own_python=own)
        assert made.keys() & given.keys() == kept | {"VLLM_CPU_KVCACHE_SPACE"}
        assert (made["VLLM_CPU_KVCACHE_SPACE"], made["VLLM_SERVER_DEV_MODE"]) == ("4", "1")


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("expandable_segments:True", ""),
        ("expandable_segments:True,max_split_size_mb:512", "max_split_size_mb:512"),
        ("max_split_size_mb:512, expandable_segments:True", "max_split_size_mb:512"),
        ("roundup_power2_divisions:[256:1,512:2]", "roundup_power2_divisions:[256:1,512:2]"),
    ],
)
@pytest.mark.parametrize("name", ["PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"])
def test_the_servers_memory_is_not_in_expandable_segments(name, given, kept):
    assert server_environment({name: given}, own_python=False)[name] == kept


@pytest.mark.parametrize("version", ["0.31.9", "0.33.0", "1.0", "dev"])
def test_other_versions_of_vllm_are_named_at_the_start(version, tmp_path):
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho {version}\n")
    python.chmod(0o755)
    with pytest.raises(UserError, match=rf"has vllm {version}; .* tested with 0.32 .*pip install 'vllm>=0.32,<0.33'"):
        check_installed(str(python))
    for fits in ("0.32.0", "0.32.4rc1+cpu"):
        python.write_text(f"#!/bin/sh\necho {fits}\n")
        check_installed(str(python))


def test_the_range_of_versions_is_that_of_the_package():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert project["optional-dependencies"]["vllm"] == ["vllm>={},<{}".format(*VERSIONS)]


@pytest.mark.parametrize(
    ("python", "message"), [("/bin/false", "/bin/false has no vllm.*docs/vllm.md"), ("no/such/python", "cannot be run")]
)
def test_a_missing_vllm_is_named_before_a_model_is_loaded(python, message):
    recipe = resolve("countdown", ["engine.name=vllm", f"engine.python={python}", "model.path=no/such/model"])
    with pytest.raises(UserError, match=message):
        build(recipe)


def test_settings_of_vllm_belong_to_vllm():
    with pytest.raises(UserError, match=r"engine.enable_sleep_mode: there is no such key"):
        resolve("countdown", ["engine.enable_sleep_mode=true"])
    assert resolve("countdown", ["engine.name=vllm"]).engine.settings == VllmSettings()
    with pytest.raises(UserError, match=r"engine.gpus: the server at engine.url has its own"):
        resolve("countdown", ["engine.name=vllm", "engine.url=http://there", "engine.gpus=[1]"])
