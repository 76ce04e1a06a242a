"""The check behind a transfer of weights to vLLM: what it lets pass, and each fault that it is there for."""

import pytest
import torch
from support.engine_contract import moved, requests, shaken
from support.pretended import Pretended
from support.worlds import tiny_policy

from scorl.engines.torch import TorchEngine
from scorl.engines.vllm.check import LIMITS, Probe
from scorl.engines.vllm.engine import VllmEngine
from scorl.errors import GuardError
from scorl.model.policy import Policy
from scorl.settings import LoraSettings

MOVED = {"float32": 0.002, "bfloat16": 0.2}
"""How far weights have moved that the check must miss, by the type that is computed in: half precision hides more."""


@pytest.fixture(params=MOVED)
def dtype(request):
    return request.param


def policy_of(path, dtype, lora=None, whole=False):
    """A policy far from uniform; `whole`: it computes in its dtype throughout, as vLLM does."""
    policy = shaken(Policy(path, dtype=dtype, lora=lora))
    if whole:
        policy.model.to(policy.dtype)
    return policy


@pytest.fixture
def path(tmp_path):
    return tiny_policy(tmp_path / "model", width=64).path


@pytest.fixture
def policy(path, dtype):
    return policy_of(path, dtype)


def test_another_way_to_round_passes(policy, path, dtype):
    server = Pretended(policy_of(path, dtype, whole=True))
    server.receive = lambda weights: None  # it has them: only its arithmetic differs
    engine = VllmEngine(policy, server=server)
    engine.load_weights()
    gap = engine.check_weights()
    assert gap < {"float32": 1e-5, "bfloat16": LIMITS[torch.bfloat16]}[dtype]
    assert gap > {"float32": 0.0, "bfloat16": 1e-4}[dtype]


@pytest.mark.parametrize("lost", ["model.embed_tokens.weight", "model.layers.1.mlp.down_proj.weight"])
def test_weights_that_do_not_arrive_stop_the_run(policy, path, dtype, lost):
    """The first is the head too, in a model that ties it to the embeddings."""
    engine = VllmEngine(policy, server=Pretended(policy_of(path, dtype), {lost}))
    engine.load_weights()
    engine.check_weights()
    with (
        moved(policy, by=MOVED[dtype]),
        pytest.raises(GuardError, match=r"differ.*stale output head.*max_sync_gap"),
    ):
        engine.sample(requests(policy, 1), temperature=1.0, max_tokens=1)


def test_swapped_layers_stop_the_run(policy, path, dtype):
    server = Pretended(policy_of(path, dtype))
    arrive = server.receive
    other = {"0": "1", "1": "0"}
    server.receive = lambda weights: arrive(
        {f"model.layers.{other[n[13]]}{n[14:]}" if n.startswith("model.layers") else n: w for n, w in weights.items()}
    )
    engine = VllmEngine(policy, server=server)
    engine.load_weights()
    with pytest.raises(GuardError, match="scored anew"):
        engine.check_weights()


def test_an_old_adapter_stops_the_run(path, dtype):
    policy = policy_of(path, dtype, LoraSettings(r=4))
    server = Pretended(policy_of(path, dtype, LoraSettings(r=4)))
    engine = VllmEngine(policy, server=server)
    engine.load_weights()
    engine.check_weights()
    first = server.adapters["adapters-1"]
    answer = server.answer

    def keep_the_first(path, body):
        made = answer(path, body)
        server.adapters = dict.fromkeys(server.adapters, first)
        return made

    server.answer = keep_the_first
    with moved(policy, by=MOVED[dtype]):
        engine.load_weights()
        with pytest.raises(GuardError, match="scored anew"):
            engine.check_weights()


def test_a_stale_prefix_cache_stops_the_run(policy, path, dtype, monkeypatch):
    engine = VllmEngine(policy, server=Pretended(policy_of(path, dtype)))
    engine.load_weights()
    engine.check_weights()
    write, old = engine.server.write, TorchEngine(policy_of(path, dtype))

    def stale(token_ids, sampling_params):  # what is scored anew is right, what is gone on from is not
        engine.server.engine = old if "prompt_logprobs" not in sampling_params else TorchEngine(engine.server.policy)
        return write(token_ids, sampling_params)

    monkeypatch.setattr(engine.server, "write", stale)
    with moved(policy, by=MOVED[dtype]):
        engine.load_weights()
        with pytest.raises(GuardError, match="8 tokens behind a kept prefix"):
            engine.check_weights()


def test_a_policy_that_was_refused_is_sent_again(policy, path, dtype):
    engine = VllmEngine(policy, server=Pretended(policy_of(path, dtype), {"model.norm.weight"}))
    with moved(policy, by=MOVED[dtype]):
        for _ in range(2):
            engine.load_weights()
            with pytest.raises(GuardError):
                engine.check_weights()
    assert engine.server.calls.count("/update_weights") == 2


def probe(*probabilities, dtype=torch.float32):
    own = torch.tensor(probabilities).log()
    return Probe((0,) * (len(own) + 1), own, torch.tensor([[0.5, 0.5]]).log().repeat(8, 1), dtype)


EVEN = [(0, float(torch.tensor(0.5).log()))] * 8


def test_the_check_by_hand():
    of = probe(*[0.5] * 20)
    own = of.logprobs.tolist()
    assert of.compare(own, EVEN, None) == 0
    assert of.compare([x + 4e-4 for x in own], EVEN, None) == pytest.approx(4e-4, rel=1e-3)
    assert of.compare([own[0] + 3, *own[1:]], EVEN, 0.4) < 0.2  # one in twenty may be off
    for theirs, limit in (([x + 6e-4 for x in own], None), ([x + 0.3 for x in own], 0.4), ([float("nan")] * 20, 9.0)):
        with pytest.raises(GuardError, match="20 tokens scored anew"):
            of.compare(theirs, EVEN, limit)
    with pytest.raises(GuardError, match=r"8 tokens behind a kept prefix: by 0\.1 on average"):
        of.compare(own, [(token, logprob - 0.1) for token, logprob in EVEN], None)


def test_improbable_tokens_do_not_count():
    of = probe(*[0.5] * 10, *[1e-4] * 10)
    own = of.logprobs.tolist()
    assert of.compare([*own[:10], *(x + 5 for x in own[10:])], EVEN, None) == 0
    unsure = probe(*[0.5] * 2, *[1e-4] * 18)
    with pytest.raises(GuardError, match="20 tokens"):  # unless there are hardly any others
        unsure.compare([x + 5 for x in unsure.logprobs.tolist()], EVEN, None)
