"""The contract of an engine, in one file that every engine passes.

A test class takes it over, and its file gives the fixtures `policy` and `engine`, of class or module scope.
"""

from contextlib import contextmanager

import pytest
import torch

from scorl.engines import Request, Sample, Streaming
from scorl.model.logprobs import log_probabilities


def shaken(policy):
    """The policy far from uniform, so that a wrong position shows."""
    torch.manual_seed(1)
    for parameter in policy.parameters.values():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return policy


def requests(policy, count):
    prompts = [policy.chat.prompt([{"role": "user", "content": text}]) for text in ("say a", "say b again", "c")]
    return [Request(prompts[i % 3], seed=100 + i) for i in range(count)]


def spoken(policy, asked, samples, said=" again"):
    """The second prompts behind some samples."""
    more = tuple(policy.tokenizer.encode("say" + said))
    return [Request(r.prompt_ids + s.ids + more, r.seed + 1000) for r, s in zip(asked, samples, strict=True)]


def plain(policy, request, ids, temperature=1.0):
    """The log-probabilities of a response by the model's own forward."""
    logits = policy.model(torch.tensor([request.prompt_ids + ids])).logits[0, len(request.prompt_ids) - 1 : -1]
    return log_probabilities(logits, temperature)[range(len(ids)), list(ids)].tolist()


def same(samples, others):
    """Whether samples agree: in every token, and in log-probabilities but for rounding."""
    return [s.ids for s in samples] == [s.ids for s in others] and all(
        s.logprobs == pytest.approx(o.logprobs, abs=1e-4) for s, o in zip(samples, others, strict=True)
    )


@contextmanager
def moved(policy, by=0.1):
    """Other weights in the policy, and its own again afterwards."""
    own = {name: parameter.data.clone() for name, parameter in policy.parameters.items()}
    generator = torch.Generator().manual_seed(2)
    for parameter in policy.parameters.values():
        parameter.data += by * torch.randn(parameter.shape, generator=generator)
    yield
    for name, parameter in policy.parameters.items():
        parameter.data.copy_(own[name])


def sampled(engine, request):
    return engine.sample([request], temperature=1.0, max_tokens=8)[0]


class Engine:
    """What holds for every engine."""

    def test_one_sample_for_each_request_in_order(self, engine, policy):
        asked = requests(policy, 12)
        samples = engine.sample(asked, temperature=1.0, max_tokens=5)
        assert len(samples) == 12
        assert same(samples, engine.sample(asked, temperature=1.0, max_tokens=5))

    def test_a_draw_belongs_to_its_request_and_not_to_the_batch(self, engine, policy):
        asked = requests(policy, 12)
        together = engine.sample(asked, temperature=1.0, max_tokens=8)
        for start in (0, 5, 11):
            alone = engine.sample(asked[start : start + 1], temperature=1.0, max_tokens=8)
            assert same(alone, together[start : start + 1])

    def test_ends_and_lengths(self, engine, policy):
        for sample in engine.sample(requests(policy, 40), temperature=1.0, max_tokens=4):
            assert 1 <= len(sample.ids) <= 4
            assert len(sample.logprobs) == len(sample.ids)
            assert all(logprob <= 1e-6 for logprob in sample.logprobs)
            assert (sample.finish == "stop") == (sample.ids[-1] in policy.chat.end_ids)
            assert not set(sample.ids[:-1]) & policy.chat.end_ids
            assert sample.finish == "stop" or len(sample.ids) == 4

    def test_greedy_takes_no_seed(self, engine, policy):
        prompt = requests(policy, 1)[0].prompt_ids
        one, other = engine.sample([Request(prompt, 1), Request(prompt, 2)], temperature=0, max_tokens=4)
        assert same([one], [other])

    def test_it_brings_the_chat_of_its_model(self, engine, policy):
        assert engine.chat is policy.chat

    def test_what_streams_is_the_sample_and_its_text(self, engine, policy):
        if not isinstance(engine, Streaming):
            pytest.skip("writes responses whole")
        for request in requests(policy, 6):
            pieces = []
            sample = engine.stream(request, pieces.append, temperature=1.0, max_tokens=8)
            assert same([sample], engine.sample([request], temperature=1.0, max_tokens=8))
            assert "".join(pieces) == engine.chat.text(sample.ids)
            assert all(pieces)

    def test_who_stops_listening_stops_the_response(self, engine, policy):
        if not isinstance(engine, Streaming):
            pytest.skip("writes responses whole")

        def hang_up(piece):
            raise ConnectionError(piece)

        request = next(r for r in requests(policy, 40) if engine.chat.text(sampled(engine, r).ids))
        before = sampled(engine, request)
        with pytest.raises(ConnectionError):
            engine.stream(request, hang_up, temperature=1.0, max_tokens=8, keep=True)
        assert same([sampled(engine, request)], [before])

    def test_no_request_no_sample(self, engine):
        assert engine.sample([], temperature=1.0, max_tokens=4) == []


class SamplesAPolicy(Engine):
    """What holds for an engine that samples from a policy."""

    draws = 4000
    """How many the distribution is counted by."""

    @pytest.mark.parametrize("temperature", [1.0, 0.6, 0.0])
    def test_log_probabilities_are_those_of_a_plain_forward(self, engine, policy, temperature):
        asked = requests(policy, 9)
        for request, sample in zip(asked, engine.sample(asked, temperature=temperature, max_tokens=8), strict=True):
            assert plain(policy, request, sample.ids, temperature) == pytest.approx(sample.logprobs, abs=1e-4)

    def test_draws_follow_the_distribution(self, engine, policy):
        prompt = requests(policy, 1)[0].prompt_ids
        exact = log_probabilities(policy.model(torch.tensor([prompt])).logits[0, -1], 1.0).exp()
        asked = [Request(prompt, seed) for seed in range(self.draws)]
        drawn = torch.tensor([s.ids[0] for s in engine.sample(asked, temperature=1.0, max_tokens=1)])
        counts = torch.bincount(drawn, minlength=len(exact)) / self.draws
        assert (counts - exact).abs().max() < 2 / self.draws**0.5  # four standard errors, at most

    def test_greedy_takes_the_likeliest(self, engine, policy):
        (request,) = requests(policy, 1)
        (sample,) = engine.sample([request], temperature=0, max_tokens=1)
        assert sample.ids == (int(policy.model(torch.tensor([request.prompt_ids])).logits[0, -1].argmax()),)

    def test_a_second_turn_goes_on_from_the_first(self, engine, policy):
        asked = requests(policy, 12)
        second = spoken(policy, asked, engine.sample(asked, temperature=1.0, max_tokens=9, keep=True))
        kept = engine.sample(second, temperature=1.0, max_tokens=9)
        for request, sample in zip(second, kept, strict=True):
            assert plain(policy, request, sample.ids) == pytest.approx(sample.logprobs, abs=1e-4)
        assert same(kept, engine.sample(second, temperature=1.0, max_tokens=9))

    def test_new_weights_are_sampled_at_once(self, engine, policy):
        asked = requests(policy, 20)
        before = engine.sample(asked, temperature=1.0, max_tokens=6, keep=True)
        with moved(policy):
            after = engine.sample(asked, temperature=1.0, max_tokens=6)
            assert [s.ids for s in after] != [s.ids for s in before]
            for request, sample in zip(asked, after, strict=True):
                assert plain(policy, request, sample.ids) == pytest.approx(sample.logprobs, abs=1e-4)
        assert same(engine.sample(asked, temperature=1.0, max_tokens=6), before)

    def test_each_row_has_the_room_that_its_own_prompt_leaves(self, engine, policy):
        short = requests(policy, 8)
        alone = engine.sample(short, temperature=1.0, max_tokens=20)
        beside = [*short, Request((4,) * 126, 0), Request((4,) * 128, 0)]
        samples = engine.sample(beside, temperature=1.0, max_tokens=20)
        assert same(samples[:8], alone)
        assert 1 <= len(samples[8].ids) <= 2
        assert samples[9] == Sample((), (), "length")
