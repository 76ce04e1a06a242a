"""How weights reach a vLLM server: adapters alone, by vLLM's NCCL sender, through a file that has room; a server of
one's own.
"""

import json
import sys
import threading
from contextlib import contextmanager, nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from support.engine_contract import requests
from support.pretended import Pretended, record_servers
from support.worlds import tiny_policy

from scorl.engines import ENGINES
from scorl.engines.vllm import launch, transfer
from scorl.engines.vllm.engine import VllmEngine
from scorl.engines.vllm.launch import start_server
from scorl.errors import GuardError, UserError
from scorl.recipe import resolve
from scorl.settings import LoraSettings, VllmSettings


@pytest.fixture
def policy(tmp_path):
    return tiny_policy(tmp_path / "policy")


@pytest.fixture
def on_a_gpu(policy, monkeypatch):
    """The policy as if on a GPU, beside which there are others."""
    monkeypatch.setattr(policy, "device", torch.device("cuda", 0))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    return policy


@pytest.fixture
def started(monkeypatch, tmp_path):
    """The options and the environment of each server that was started."""
    return record_servers(monkeypatch, tmp_path)


# A server of one's own.


@contextmanager
def answering(version):
    """An HTTP server that says that it is of this version of vLLM."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps({"version": version}).encode())

        def do_POST(self):
            self.send_error(500)

        def log_message(self, *unused): ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_server_of_ones_own_is_asked_for_its_version(policy):
    with answering("0.32.1") as url:
        server = start_server(policy, VllmSettings(url=url))
        with pytest.raises(GuardError, match=rf"the vLLM server at {url} refused /start_weight_update with status 500"):
            server.post("/start_weight_update")
    with (
        answering("0.40.0") as url,
        pytest.raises(UserError, match=rf"engine.url: the server at {url} has vllm 0.40.0"),
    ):
        start_server(policy, VllmSettings(url=url))
    with pytest.raises(UserError, match="no vLLM server answers at"):
        start_server(policy, VllmSettings(url=url))


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("node7:8000", "is no address of a server"),
        ("http://[::1", "is no address of a server"),
        ("http://node7:99999", "is no address of a server"),
        ("http://user:hunter2@node7:8000", "no name, password or query"),
        ("http://node7:8000/?token=hunter2", "no name, password or query"),
    ],
)
def test_an_address_of_ones_own_is_one_without_a_secret(url, fault):
    with pytest.raises(UserError, match=rf"engine\.url: .*{fault}") as refused:
        resolve("countdown", ["engine.name=vllm", f"engine.url={url}"])
    assert "hunter2" not in str(refused.value)


def test_where_a_server_of_ones_own_runs_none_need_be_installed_here():
    ENGINES["vllm"].check(VllmSettings(url="http://there", python="no/such/python"))


# Weights on their way.


def test_shared_memory_is_looked_at_before_weights_go_through_it(tmp_path, monkeypatch):
    shared, disk = (tmp_path / name for name in ("shm", "disk"))
    shared.mkdir(), disk.mkdir()
    free = {str(shared): 64 * 2**20, str(disk): 2**40}
    monkeypatch.setattr(transfer, "SHARED_MEMORY", str(shared))
    monkeypatch.setattr("tempfile.tempdir", str(disk))
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=free[folder]))
    assert transfer.find_room(2**20) == str(shared)
    with pytest.warns(UserWarning, match=r"15.00 GiB of weights .* through a file in .*disk, since .*shm has 0.06 GiB"):
        assert transfer.find_room(15 * 2**30) == str(disk)
    free[str(disk)] = 2**30
    with pytest.raises(GuardError, match=r"no room for 15.00 GiB of weights .*disk has 1.00 GiB free. TMPDIR"):
        transfer.find_room(15 * 2**30)


def test_adapters_cross_as_adapters(tmp_path):
    policy, other = (tiny_policy(tmp_path / name, lora=LoraSettings(r=2)) for name in "ab")
    engine = VllmEngine(policy, server=Pretended(other))
    for _ in range(2):
        for parameter in policy.parameters.values():
            parameter.data += 0.1
        engine.sample(requests(policy, 1), temperature=1.0, max_tokens=2)
    assert list(engine.server.adapters) == ["adapters-2"]  # the one before is no longer known
    folders = [body["lora_path"] for body in engine.server.bodies if body and "lora_path" in body]
    assert [Path(folder).exists() for folder in folders] == [False, True]
    with policy.model.disable_adapter():  # as the reference writes
        engine.sample(requests(policy, 1), temperature=1.0, max_tokens=2)
    assert "model" not in engine.server.bodies[-1]
    assert "/start_weight_update" not in engine.server.calls


@pytest.mark.parametrize(
    ("settings", "way"),
    [({}, "adapters"), ({"merge_adapters": True}, "file"), ({"url": "http://there"}, "file")],
)
def test_adapters_are_merged_where_they_cannot_cross(tmp_path, settings, way):
    policy = tiny_policy(tmp_path / "a", lora=LoraSettings(r=2))
    assert transfer.choose_way(policy, VllmSettings(**settings)) == way


@pytest.mark.parametrize(("rank", "room"), [(1, "1"), (4, "8"), (16, "16"), (400, "512")])
def test_the_server_makes_room_for_the_adapters_rank(tmp_path, started, rank, room):
    policy = tiny_policy(tmp_path / "a", lora=LoraSettings(r=2))
    policy.lora = LoraSettings(r=rank)
    start_server(policy, VllmSettings())
    ((options, variables),) = started
    assert (options["--max-lora-rank"], options["--model"]) == (room, policy.path)
    assert variables["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "1"
    assert "--weight-transfer-config" not in options


def test_ranks_of_adapters_that_vllm_cannot_hold_are_named(tmp_path, started):
    policy = tiny_policy(tmp_path / "a", lora=LoraSettings(r=2))
    policy.lora = LoraSettings(r=1000)
    with pytest.raises(UserError, match=r"model.lora.r: vLLM takes adapters up to rank 512, not 1000"):
        start_server(policy, VllmSettings())


# vLLM's NCCL transfer, whose sender runs in the learner's process; tests/vllm does the same with vLLM's own.


def pretended_sender(log):
    """As much of vLLM's sender as scorl calls, which waits as long as NCCL does until both sides have come."""

    class Sender:
        @classmethod
        def trainer_init(cls, start, *, client, source):
            sender = cls()
            sender.client, sender.source = client, source
            sender.meet(client.init_weight_transfer_engine, {"port": start.port}, f"world of {start.world}")
            return sender

        def send_weights(self):
            self.client.start_weight_update()
            self.meet(self.client.update_weights, [m.name for m in self.source.metadata()], dict(self.source))
            self.client.finish_weight_update()

        def meet(self, route, body, ours):
            theirs = threading.Thread(target=route, args=(body,))
            theirs.start()
            log.append(ours)
            theirs.join()

    return Sender


@pytest.fixture
def nccl(monkeypatch):
    log = []
    base, engine = ModuleType("base"), ModuleType("nccl_engine")
    base.ParamMeta = lambda name, dtype, shape: SimpleNamespace(name=name, dtype=dtype, shape=shape)
    engine.NCCLTrainerInitInfo = lambda address, port, world, rank: SimpleNamespace(port=port, world=world)
    engine.NCCLTrainerWeightTransferEngine = pretended_sender(log)
    names = ("vllm", "vllm.distributed", "vllm.distributed.weight_transfer")
    modules = dict.fromkeys(names, ModuleType("vllm"))
    modules |= {f"{names[-1]}.base": base, f"{names[-1]}.nccl_engine": engine}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return log


@pytest.mark.parametrize("settings", [{"gpus": (6, 7), "tensor_parallel_size": 2}, {"url": "http://127.0.0.1:1"}])
def test_weights_reach_other_gpus_by_the_sender_of_vllm(on_a_gpu, nccl, monkeypatch, settings):
    sender = launch.open_sender(Pretended(on_a_gpu, calls=nccl), on_a_gpu, VllmSettings(**settings))
    assert sorted(map(str, nccl)) == ["/init_weight_transfer_engine", "world of 3"]
    nccl.clear()
    monkeypatch.setattr(Pretended, "answer", lambda self, path, body: None)
    sender.send()
    assert (nccl[0], nccl[-1]) == ("/start_weight_update", "/finish_weight_update")
    (weights,) = [entry for entry in nccl if isinstance(entry, dict)]
    assert weights.keys() == dict(on_a_gpu.weights()).keys()


def test_without_vllm_here_its_sender_is_missed(on_a_gpu):
    with pytest.raises(UserError, match=r"vLLM must be installed here too: pip install 'scorl\[vllm\]'"):
        launch.open_sender(Pretended(on_a_gpu), on_a_gpu, VllmSettings(gpus=(7,)))
