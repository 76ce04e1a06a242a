"""One contract for every engine."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from worlds import tiny_policy

from scorl.engines import Request, Sample, ScriptedEngine, TorchEngine
from scorl.engines.draw import draw
from scorl.engines.rows import Kept, Rows
from scorl.engines.trunk import Trunk, grafted
from scorl.logits import log_probabilities
from scorl.settings import LoraSettings

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


def test_a_large_vocabulary_is_drawn_from_as_a_small_one():
    torch.manual_seed(0)
    logits = 4 * torch.randn(64, 5001)
    logits[:, ::3] = -torch.inf
    scores = torch.log_softmax(logits, -1)
    uniform = torch.rand(64, dtype=torch.float64)
    uniform[:2] = torch.tensor([1e-12, 1 - 1e-12], dtype=torch.float64)
    drawn = draw(scores, uniform, 1.0)
    exact = scores.double().exp().cumsum(-1)
    below = (exact - scores.double().exp()).gather(1, drawn[:, None])[:, 0]
    assert ((below - 1e-6 <= uniform) & (uniform <= exact.gather(1, drawn[:, None])[:, 0] + 1e-6)).all()
    assert scores.gather(1, drawn[:, None]).isfinite().all()
    assert drawn[7:8].equal(draw(scores[7:8], uniform[7:8], 1.0))


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


def spoken(policy, asked, samples, said=" again"):
    """The second prompts behind some samples."""
    more = tuple(policy.tokenizer.encode("say" + said))
    return [Request(r.prompt_ids + s.ids + more, r.seed + 1000) for r, s in zip(asked, samples, strict=True)]


@contextmanager
def counted(policy):
    """How many tokens the model computes, padding included."""
    seen = []
    hook = policy.decoder.get_input_embeddings().register_forward_hook(lambda _, ids, out: seen.append(ids[0].numel()))
    yield seen
    hook.remove()


def test_turns_of_several_lengths_stay_with_their_rows(policy):
    engine = TorchEngine(policy)
    asked = requests(policy, 24)
    first = engine.sample(asked, temperature=1.0, max_tokens=9, keep=True)
    said = (" again", " again a b c e f")
    second = [spoken(policy, [r], [s], said[len(s.ids) < 5])[0] for r, s in zip(asked, first, strict=True)]
    ours = engine.sample(second, temperature=1.0, max_tokens=9)
    plain = TorchEngine(policy).sample(second, temperature=1.0, max_tokens=9)
    assert [s.ids for s in ours] == [s.ids for s in plain]
    for mine, theirs in zip(ours, plain, strict=True):
        assert mine.logprobs == pytest.approx(theirs.logprobs, abs=1e-5)


@pytest.mark.parametrize("batch_size", [256, 5])
def test_a_second_turn_computes_only_what_is_new(policy, batch_size):
    engine = TorchEngine(policy, batch_size)
    asked = requests(policy, 24)
    first = engine.sample(asked, temperature=1.0, max_tokens=9, keep=True)
    assert len({len(s.ids) for s in first}) > 2  # rows ended at different times
    second = spoken(policy, asked, first)
    with counted(policy) as seen:
        kept = engine.sample(second, temperature=1.0, max_tokens=9, keep=True)
    third = spoken(policy, second, kept)
    once_more = engine.sample(third, temperature=1.0, max_tokens=9)
    with counted(policy) as all_of_it:
        plain = TorchEngine(policy).sample(second, temperature=1.0, max_tokens=9)
    assert [s.ids for s in kept] == [s.ids for s in plain]
    for ours, theirs in zip(kept, plain, strict=True):
        assert ours.logprobs == pytest.approx(theirs.logprobs, abs=1e-5)
    assert [s.ids for s in once_more] == [
        s.ids for s in TorchEngine(policy).sample(third, temperature=1.0, max_tokens=9)
    ]
    new = len({r.prompt_ids for r in second}) * 3  # the last token drawn, and two that were said
    drawn = sum(len(s.ids) - 1 for s in kept)
    assert sum(seen) == new + drawn
    assert sum(all_of_it) > 2 * sum(seen)


def test_what_is_kept_is_forgotten_with_the_weights(policy, tmp_path):
    fresh = tiny_policy(tmp_path, seed=1)
    asked = requests(fresh, 12)
    engine = TorchEngine(fresh)
    first = engine.sample(asked, temperature=1.0, max_tokens=6, keep=True)
    with torch.no_grad():
        next(iter(fresh.parameters.values()))[3] += 0.5
    second = spoken(fresh, asked, first)
    assert engine.sample(second, temperature=1.0, max_tokens=6) == TorchEngine(fresh).sample(
        second, temperature=1.0, max_tokens=6
    )


def test_what_does_not_fit_is_computed_again(policy):
    asked = requests(policy, 12)
    roomy, tight = TorchEngine(policy), TorchEngine(policy, kept_bytes=40_000)
    first = roomy.sample(asked, temperature=1.0, max_tokens=6, keep=True)
    assert tight.sample(asked, temperature=1.0, max_tokens=6, keep=True) == first
    second = spoken(policy, asked, first)
    answers = []
    for engine in (roomy, tight):
        with counted(policy) as seen:
            answers.append([s.ids for s in engine.sample(second, temperature=1.0, max_tokens=6)])
        answers.append(sum(seen))
    assert answers[0] == answers[2]
    assert answers[1] < answers[3]


def test_several_go_on_from_one_response_and_other_prompts_beside_them(policy):
    asked = requests(policy, 3)
    engine = TorchEngine(policy)
    first = engine.sample(asked, temperature=1.0, max_tokens=6, keep=True)
    branches = [Request(r.prompt_ids, seed) for r in spoken(policy, asked, first) for seed in range(4)]
    new = [Request(tuple(policy.chat.prompt([{"role": "user", "content": "say e f"}])), 7)]
    mixed = [*branches[:6], *new, *branches[6:]]
    plain = TorchEngine(policy).sample(mixed, temperature=1.0, max_tokens=6)
    assert [s.ids for s in engine.sample(mixed, temperature=1.0, max_tokens=6)] == [s.ids for s in plain]


@pytest.mark.parametrize("batch_size", [256, 7])
def test_samples_share_a_prompt_as_if_each_had_its_own(policy, monkeypatch, batch_size):
    asked = [Request(r.prompt_ids, r.seed + k) for r in requests(policy, 3) for k in range(0, 1000, 100)]
    turns = []
    for least in (1, 10**9):  # tokens of a prompt that is shared
        monkeypatch.setattr("scorl.engines.torch.TRUNK", least)
        engine = TorchEngine(policy, batch_size)
        first = engine.sample(asked, temperature=1.0, max_tokens=9, keep=True)
        second = spoken(policy, asked, first)
        turns.append([*first, *engine.sample(second, temperature=1.0, max_tokens=9)])
    assert [s.ids for s in turns[0]] == [s.ids for s in turns[1]]
    for shared, own in zip(*turns, strict=True):
        assert shared.logprobs == pytest.approx(own.logprobs, abs=1e-5)


def test_rows_find_their_prompts_and_lose_those_of_others():
    trunk = Trunk([], torch.ones(3, 2, dtype=torch.bool), torch.tensor([2, 0, 2, 1, 2]))
    rows = torch.arange(5.0).view(5, 1, 1, 1).expand(5, 2, 3, 4)
    prompts = trunk.by_prompt(rows)
    assert prompts[2, 0, ::3, 0].tolist() == [0, 2, 4]
    assert trunk.by_row(prompts).equal(rows)
    keys = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 1, 2, 4)
    some = Trunk([(keys, keys)], trunk.mask, trunk.prompt).taken(torch.tensor([0, 3]))
    both = grafted([(some, 2), (None, 1)])
    assert both.layers[0][0][:, 0, 0, 0].tolist() == [1, 2, 0]
    assert both.prompt.tolist() == [1, 0, 2]
    assert both.lengths.tolist() == [2, 2, 0]


def test_a_model_with_a_window_says_that_it_keeps_nothing(policy, monkeypatch):
    monkeypatch.setattr(policy.decoder.config, "sliding_window", 64, raising=False)
    engine = TorchEngine(policy)
    with pytest.warns(UserWarning, match="sliding window"):
        first = engine.sample(requests(policy, 4), temperature=1.0, max_tokens=6, keep=True)
    second = spoken(policy, requests(policy, 4), first)
    with counted(policy) as seen:
        engine.sample(second, temperature=1.0, max_tokens=1)
    assert sum(seen) >= sum(len(p) for p in {r.prompt_ids for r in second})


def test_no_ended_row_is_computed(policy):
    asked = requests(policy, 30)
    with counted(policy) as seen:
        samples = TorchEngine(policy, batch_size=8).sample(asked, temperature=1.0, max_tokens=9)
    prompts = sum(seen) - sum(len(s.ids) - 1 for s in samples)
    assert 0 < prompts <= 30 * max(len(r.prompt_ids) for r in asked)
    assert [s.ids for s in samples] == [s.ids for s in TorchEngine(policy).sample(asked, temperature=1.0, max_tokens=9)]


def test_the_longest_kept_beginning_is_found():
    kept = Kept(limit=1 << 20)
    rows = Rows(torch.ones(1, 1), cache=SimpleNamespace(layers=[]))
    tokens = [(1,), (1, 2), (1, 2, 9), (1, 3, 5, 7), (2, 2)]
    kept.keep(rows, tokens)
    found = {p: kept.find(p) for p in [(1, 2, 3, 4), (1, 2), (1, 3, 5, 6), (2, 2, 2), (3,), (1, 3, 5, 7, 1), (0, 1)]}
    assert {p: f and tokens[f[2]] for p, f in found.items()} == {
        (1, 2, 3, 4): (1, 2),
        (1, 2): (1,),
        (1, 3, 5, 6): (1,),
        (2, 2, 2): (2, 2),
        (3,): None,
        (1, 3, 5, 7, 1): (1, 3, 5, 7),
        (0, 1): None,
    }


def test_adapters_switched_off_are_other_weights(tmp_path):
    policy = tiny_policy(tmp_path, lora=LoraSettings(rank=2))
    on = policy.fingerprint()
    with policy.model.disable_adapter():
        assert policy.fingerprint() != on
    assert policy.fingerprint() == on
