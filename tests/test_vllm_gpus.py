"""The engine `vllm` on GPUs, of which there is none here: who sees which, how memory is handed over, who
shares a server.

What a server is told is recorded, and so are the routes that it is asked by; torch's GPUs are pretended.
"""

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from support.engine_contract import requests
from support.pretended import Pretended, record_servers
from support.worlds import letters, tiny_policy

from scorl.distributed import ranks as distributed
from scorl.distributed.ranks import Ranks
from scorl.engines.vllm import transfer
from scorl.engines.vllm.check import Probe
from scorl.engines.vllm.engine import VllmEngine
from scorl.engines.vllm.launch import ServedModel, start_server
from scorl.engines.vllm.shared import SharedEngine, find_leader, share_engine
from scorl.errors import GuardError, UserError
from scorl.learner import Learner
from scorl.model.policy import resolve_device
from scorl.objectives import StageOne
from scorl.settings import LearnerSettings, LoraSettings, ModelSettings, VllmSettings
from scorl.training.handover import weights_for_sampling
from scorl.training.loop import train
from scorl.training.stage import Stage


@pytest.fixture
def policy(tmp_path):
    return tiny_policy(tmp_path / "policy")


@pytest.fixture
def eight_gpus(monkeypatch):
    """A machine with 8 GPUs, of which this process's current one is set as torch sets it."""
    current = SimpleNamespace(index=0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setattr(torch.cuda, "set_device", lambda index: setattr(current, "index", index))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current.index)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return current


@pytest.fixture
def started(monkeypatch, tmp_path):
    """The servers that were started: their options, and their environment."""
    return record_servers(monkeypatch, tmp_path)


def on_gpu(policy):
    policy.device = resolve_device("auto")
    return policy


@pytest.mark.parametrize("rank", range(8))
def test_under_torchrun_each_ranks_server_sees_its_ranks_gpu(policy, eight_gpus, started, monkeypatch, rank):
    for name, value in {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 8, "MASTER_ADDR": "here"}.items():
        monkeypatch.setenv(name, str(value))
    distributed._prepare("auto")
    start_server(on_gpu(policy), VllmSettings())
    start_server(ServedModel.of(ModelSettings(policy.path)), VllmSettings())
    for options, variables in started:
        assert variables["CUDA_VISIBLE_DEVICES"] == str(rank)
        assert options["--tensor-parallel-size"] == "1"
        assert not {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR"} & variables.keys()


@pytest.mark.parametrize("place", range(4))
def test_under_ray_the_current_device_tells(policy, eight_gpus, started, monkeypatch, place):
    """Ray Train lets all workers of a node see the same GPUs, and sets each one's current device."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    torch.cuda.set_device(place)
    start_server(on_gpu(policy), VllmSettings())
    ((_, variables),) = started
    assert variables["CUDA_VISIBLE_DEVICES"] == str(4 + place)


@pytest.mark.parametrize(("first", "size", "seen"), [(0, 2, "0,1"), (1, 2, "1,2"), (4, 4, "4,5,6,7"), (7, 1, "7")])
def test_tensor_parallelism_sees_as_many_gpus(policy, eight_gpus, started, first, size, seen):
    torch.cuda.set_device(first)
    start_server(on_gpu(policy), VllmSettings(tensor_parallel_size=size))
    ((options, variables),) = started
    assert variables["CUDA_VISIBLE_DEVICES"] == seen
    assert options["--tensor-parallel-size"] == str(size)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tensor_parallel_size": 2}, r"tensor_parallel_size: the server needs cuda:8, but this process sees 8 GPUs"),
        ({"gpus": (3, 8), "tensor_parallel_size": 2}, r"engine.gpus: the server needs cuda:8"),
        ({"gpus": (0, 1)}, r"engine.gpus: 2 GPUs, but engine.tensor_parallel_size is 1"),
        ({"gpus": (7,)}, r"engine.gpus: cuda:7 is the learner's own"),
    ],
)
def test_gpus_that_cannot_be_are_named(policy, eight_gpus, started, settings, message):
    torch.cuda.set_device(7)
    with pytest.raises(UserError, match=message):
        start_server(on_gpu(policy), VllmSettings(**settings))


def test_a_server_on_its_own_gpus_gets_weights_by_nccl(policy, eight_gpus, started):
    start_server(on_gpu(policy), VllmSettings(gpus=(6, 7), tensor_parallel_size=2))
    ((options, variables),) = started
    assert variables["CUDA_VISIBLE_DEVICES"] == "6,7"
    assert json.loads(options["--weight-transfer-config"]) == {"backend": "nccl"}


class Among(Ranks):
    """A rank that knows what the others say."""

    def __init__(self, rank, values):
        super().__init__(rank, len(values))
        object.__setattr__(self, "values", values)

    def all_gather(self, value, what):
        assert self.values[self.rank] == value
        return self.values


@pytest.mark.parametrize("rank", range(8))
def test_ranks_on_the_gpus_of_one_server_share_it(policy, eight_gpus, started, monkeypatch, rank):
    """Two nodes of four ranks, whose GPUs are not in the order of their ranks."""
    host, gpus = ("a", "b")[rank // 4], [1, 0, 2, 3]
    monkeypatch.setattr("socket.gethostname", lambda: host)
    ranks = Among(rank, [(("a", "b")[r // 4], gpus[r % 4]) for r in range(8)])
    torch.cuda.set_device(gpus[rank % 4])
    shared = share_engine(VllmEngine(on_gpu(policy), VllmSettings(tensor_parallel_size=2)), ranks)
    assert isinstance(shared, SharedEngine)
    assert shared.leader == [1, 1, 2, 2, 5, 5, 6, 6][rank]
    if rank == shared.leader:
        start_server(policy, shared.engine.settings)
        assert started[0][1]["CUDA_VISIBLE_DEVICES"] == ("0,1" if rank % 4 == 1 else "2,3")


def test_ranks_that_do_not_fit_a_servers_gpus_are_told(policy, eight_gpus, monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "a")
    ranks = Among(0, [("a", gpu) for gpu in (0, 1, 2)])
    with pytest.raises(UserError, match=r"2 neighbouring GPUs .* on a are on cuda:0, cuda:1, cuda:2: take a divisor"):
        find_leader(on_gpu(policy).device, VllmSettings(tensor_parallel_size=2), ranks)


@pytest.mark.parametrize("settings", [VllmSettings(url="http://there"), VllmSettings(gpus=(7,))])
def test_a_server_elsewhere_is_everybodys(policy, settings):
    engine = VllmEngine(policy, settings)
    assert share_engine(engine, Ranks(3, 4)).leader == 0
    assert share_engine(engine, Ranks()) is engine
    own = VllmEngine(policy, VllmSettings())
    assert share_engine(own, Ranks(3, 4)) is own


# Memory that is handed over.

GENERATE = "/inference/v1/generate"
SENT = ["/start_weight_update", "/update_weights", "/finish_weight_update"]


def recorded(learner, calls, monkeypatch):
    """The learner notes when weights in shards are gathered and let go."""

    @contextmanager
    def unsharded(reference=False):
        calls.append("gathered")
        try:
            yield
        finally:
            calls.append("let go")

    monkeypatch.setattr(learner, "unsharded", unsharded)
    return learner


@pytest.fixture
def calls():
    return []


@pytest.fixture
def other(tmp_path):
    return tiny_policy(tmp_path / "other", seed=5)


@pytest.fixture
def colocated(policy, other, tmp_path, eight_gpus, calls, monkeypatch):
    """An engine whose server shares a pretended GPU, on which the policy says that it is."""
    folder = tmp_path / "ipc"
    folder.mkdir()

    def handles(weights):
        save_file({name: weight.clone() for name, weight in weights.items()}, folder / "weights")
        return {"path": str(folder / "weights")}

    def probe_on_cpu(policy, max_positions):
        with monkeypatch.context() as here:
            here.setattr(policy, "device", torch.device("cpu"))
            return of(policy, max_positions)

    of = Probe.of
    monkeypatch.setattr(transfer, "_ipc_handles", handles)
    monkeypatch.setattr(Probe, "of", probe_on_cpu)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: calls.append("empty_cache"))
    monkeypatch.setattr(torch.cuda, "ipc_collect", lambda: calls.append("ipc_collect"))
    server = Pretended(other, calls=calls)
    return VllmEngine(on_gpu(policy), VllmSettings(enable_sleep_mode=True), server)


def once(calls):
    """The calls, of neighbours that are alike one."""
    return [call for before, call in pairwise(["", *calls]) if call != before]


def test_memory_is_handed_over_in_order(colocated, policy, calls, monkeypatch):
    learner = recorded(SimpleNamespace(unsharded=None), calls, monkeypatch)
    for _ in range(2):
        calls.clear()
        with weights_for_sampling(colocated, learner) as gap:
            for keep in (True, False):
                colocated.sample(requests(policy, 2), temperature=1.0, max_tokens=2, keep=keep)
        assert gap < 1e-4
    assert once(calls) == [
        "gathered",
        "empty_cache",
        "/wake_up?tags=weights",
        *SENT,
        "ipc_collect",
        "/reset_prefix_cache",
        "let go",
        "/wake_up?tags=kv_cache",
        GENERATE,
        "/sleep?level=2",
    ]


def test_gathered_weights_stay_where_the_reference_writes_too(colocated, policy, calls, monkeypatch):
    learner = recorded(SimpleNamespace(unsharded=None), calls, monkeypatch)
    with weights_for_sampling(colocated, learner, reference=True):
        colocated.sample(requests(policy, 2), temperature=1.0, max_tokens=2)
    assert calls[-2:] == ["/sleep?level=2", "let go"]


def test_an_engine_without_weights_of_its_own_samples_from_what_is_gathered(policy, calls, monkeypatch):
    from scorl.engines.torch import TorchEngine

    learner = recorded(SimpleNamespace(unsharded=None), calls, monkeypatch)
    with weights_for_sampling(TorchEngine(policy), learner) as gap:
        calls.append("sampled")
    assert (calls, gap) == (["gathered", "sampled", "let go"], None)


def test_training_hands_over_in_every_step(policy, other, calls, monkeypatch):
    engine = VllmEngine(policy, VllmSettings(enable_sleep_mode=True), Pretended(other, calls=calls))
    learner = recorded(Learner(policy, LearnerSettings(), total=2), calls, monkeypatch)
    for _ in train(policy, letters(), [Stage(StageOne(), 2, 2, 2)], engine=engine, learner=learner):
        calls.append("learned")
    steps = [*SENT, "/reset_prefix_cache", "let go", "/wake_up?tags=kv_cache", GENERATE, "/sleep?level=2"]
    assert once(calls)[once(calls).index("learned") + 1 : -1] == ["gathered", "/wake_up?tags=weights", *steps]


def test_weights_in_shards_are_not_looked_at_behind_their_transfer(policy, other, monkeypatch):
    engine = VllmEngine(policy, server=Pretended(other))
    monkeypatch.setattr(type(policy), "is_sharded", True)
    with pytest.raises(GuardError, match="were not sent to vLLM while they were gathered"):
        engine.sample(requests(policy, 1), temperature=1.0, max_tokens=1)
    engine.load_weights()
    monkeypatch.setattr(policy, "fingerprint", None)
    assert engine.sample(requests(policy, 1), temperature=1.0, max_tokens=1)


def test_adapters_sleep_lightly(tmp_path):
    """The model below them is sent by nobody, so it must not be forgotten."""
    policy, other = (tiny_policy(tmp_path / name, lora=LoraSettings(r=2)) for name in "ab")
    engine = VllmEngine(policy, VllmSettings(enable_sleep_mode=True), Pretended(other))
    engine.sample(requests(policy, 1), temperature=1.0, max_tokens=1)
    engine.sleep()
    engine.sample(requests(policy, 1), temperature=1.0, max_tokens=1)
    calls = engine.server.calls
    assert calls[calls.index("/sleep?level=1") + 1 :][:2] == ["/wake_up?tags=weights", "/wake_up?tags=kv_cache"]
    assert calls.count("/v1/load_lora_adapter") == 1


# One server for several ranks.

SHARED = """
import json, sys, torch
from pathlib import Path
from support.engine_contract import requests
from support.pretended import Pretended, record_servers
from scorl.distributed.ranks import process_group
from scorl.engines.torch import TorchEngine
from scorl.engines.vllm.engine import VllmEngine
from scorl.engines.vllm.shared import share_engine
from scorl.errors import GuardError
from scorl.model.policy import Policy
from scorl.settings import VllmSettings
with process_group(3, 60.0, "cpu") as ranks:
    policy, other = (Policy(str(Path(sys.argv[1], name))) for name in ("policy", "other"))
    server = Pretended(other)
    engine = share_engine(VllmEngine(policy, VllmSettings(url="http://there"), server), ranks)
    engine.load_weights()
    gap = engine.check_weights()
    asked = requests(policy, 5)[: 2 * ranks.rank]  # rank 0 asks for nothing, and yet writes for all
    samples = engine.sample(asked, temperature=1.0, max_tokens=4)
    engine.sleep()
    own = TorchEngine(policy).sample(asked, temperature=1.0, max_tokens=4)
    server.lost = {"model.embed_tokens.weight"}
    for parameter in policy.parameters.values():
        parameter.data += 0.1 * torch.randn_like(parameter)
    try:
        engine.load_weights()
        engine.check_weights()
        fault = None
    except GuardError as error:
        fault = str(error)
    said = [gap, [s.ids for s in samples] == [s.ids for s in own], len(samples), len(server.calls), fault]
    Path(sys.argv[1], f"{ranks.rank}.json").write_text(json.dumps(said))
"""


def test_one_rank_speaks_with_the_server_for_all_and_an_error_is_everybodys(policy, other, tmp_path):
    program = tmp_path / "shared.py"
    program.write_text(SHARED)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "3", str(program), str(tmp_path)]
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    variables = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": path}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    said = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(3)]
    assert all(gap < 1e-4 and alike for gap, alike, *_ in said)
    assert [count for _, _, count, *_ in said] == [0, 2, 4]
    assert [calls > 0 for *_, calls, _ in said] == [True, False, False]
    assert len({fault for *_, fault in said}) == 1
    assert "stale output head" in said[0][-1]
