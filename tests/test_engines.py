"""One contract for every engine."""

import pytest
import torch
from worlds import tiny_policy

from scorl.engines import Request, Sample, ScriptedEngine, TorchEngine
from scorl.logits import log_probabilities

ENGINES = {
    "torch": TorchEngine,
    "scripted": lambda policy: ScriptedEngine(policy.chat, ["a", "b c", "d e f"]),
}


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    policy = tiny_policy(tmp_path_factory.mktemp("model"))
    torch.manual_seed(1)
    for parameter in policy.parameters.values():  # far from uniform, so that a wrong position shows
        parameter.data += 0.3 * torch.randn_like(parameter)
    return policy


@pytest.fixture(params=ENGINES)
def engine(request, policy):
    return ENGINES[request.param](policy)


def requests(policy, count):
    prompts = [policy.chat.prompt([{"role": "user", "content": text}]) for text in ("say a", "say b again", "c")]
    return [Request(prompts[i % 3], seed=100 + i) for i in range(count)]


def test_one_sample_for_each_request_in_order(engine, policy):
    asked = requests(policy, 12)
    samples = engine.sample(asked, temperature=1.0, max_tokens=5)
    assert len(samples) == 12
    assert samples == engine.sample(asked, temperature=1.0, max_tokens=5)


def test_a_draw_belongs_to_its_request_and_not_to_the_batch(engine, policy):
    asked = requests(policy, 12)
    together = engine.sample(asked, temperature=1.0, max_tokens=8)
    for start in (0, 5, 11):
        (alone,) = engine.sample(asked[start : start + 1], temperature=1.0, max_tokens=8)
        assert alone.ids == together[start].ids
        assert alone.logprobs == pytest.approx(together[start].logprobs, abs=1e-5)


def test_ends_and_lengths(engine, policy):
    for sample in engine.sample(requests(policy, 40), temperature=1.0, max_tokens=4):
        assert 1 <= len(sample.ids) <= 4
        assert len(sample.logprobs) == len(sample.ids)
        assert all(logprob <= 1e-6 for logprob in sample.logprobs)
        assert (sample.finish == "stop") == (sample.ids[-1] in policy.chat.end_ids)
        assert not set(sample.ids[:-1]) & policy.chat.end_ids
        assert sample.finish == "stop" or len(sample.ids) == 4


def test_greedy_takes_no_seed(engine, policy):
    prompt = requests(policy, 1)[0].prompt_ids
    samples = engine.sample([Request(prompt, 1), Request(prompt, 2)], temperature=0, max_tokens=4)
    assert samples[0] == samples[1]


def test_no_request_no_sample(engine):
    assert engine.sample([], temperature=1.0, max_tokens=4) == []


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_log_probabilities_are_those_of_a_plain_forward(policy, temperature):
    asked = requests(policy, 9)
    for request, sample in zip(
        asked, TorchEngine(policy).sample(asked, temperature=temperature, max_tokens=8), strict=True
    ):
        ids = torch.tensor([request.prompt_ids + sample.ids])
        logits = policy.model(ids).logits[0, len(request.prompt_ids) - 1 : -1]
        plain = log_probabilities(logits, temperature)[range(len(sample.ids)), list(sample.ids)]
        assert plain.tolist() == pytest.approx(sample.logprobs, abs=1e-4)


def test_draws_follow_the_distribution(policy):
    prompt = requests(policy, 1)[0].prompt_ids
    exact = log_probabilities(policy.model(torch.tensor([prompt])).logits[0, -1], 1.0).exp()
    samples = TorchEngine(policy).sample([Request(prompt, i) for i in range(4000)], temperature=1.0, max_tokens=1)
    counts = torch.bincount(torch.tensor([s.ids[0] for s in samples]), minlength=len(exact)) / 4000
    assert (counts - exact).abs().max() < 0.03


@pytest.mark.parametrize("batch_size", [1, 5])
def test_batch_size_changes_nothing(policy, batch_size):
    asked = requests(policy, 12)
    whole = TorchEngine(policy).sample(asked, temperature=1.0, max_tokens=8)
    assert [s.ids for s in TorchEngine(policy, batch_size).sample(asked, temperature=1.0, max_tokens=8)] == [
        s.ids for s in whole
    ]


def test_new_weights_are_sampled_at_once(policy, tmp_path):
    fresh = tiny_policy(tmp_path, seed=1)
    engine = TorchEngine(fresh)
    asked = requests(fresh, 20)
    before = engine.sample(asked, temperature=1.0, max_tokens=6)
    for parameter in fresh.parameters.values():
        parameter.data += 0.5
    assert engine.sample(asked, temperature=1.0, max_tokens=6) != before


def test_each_row_has_the_room_that_its_own_prompt_leaves(policy):
    engine = TorchEngine(policy)
    short = requests(policy, 8)
    alone = engine.sample(short, temperature=1.0, max_tokens=20)
    beside = engine.sample([*short, Request((4,) * 126, 0), Request((4,) * 128, 0)], temperature=1.0, max_tokens=20)
    assert [s.ids for s in beside[:8]] == [s.ids for s in alone]
    assert len(beside[8].ids) <= 2
    assert beside[9] == Sample((), (), "length")
