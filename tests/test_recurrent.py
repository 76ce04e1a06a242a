"""Recurrent layers: sampled from states that move with their rows, learned from rows beside each other."""

import warnings

import pytest
import torch
from support.engine_contract import SamplesAPolicy, plain, requests, spoken
from support.families import save_family
from support.lessons import gradient, make_examples

from scorl.engines.cache_layers import StateLayer
from scorl.engines.prefix_support import check_cached_rows
from scorl.engines.torch import TorchEngine
from scorl.errors import UserError
from scorl.learner.tree_check import check_tree_support
from scorl.model.head import hidden_states
from scorl.model.policy import Policy
from scorl.settings import LearnerSettings

RECURRENT = [
    "qwen3.5",
    "qwen3-next",
    "lfm2",
    "granite-hybrid",
    "falcon-h1",
    "mamba2",
    "nemotron-h",
    "jamba",
    "kimi-linear",
    "olmo-hybrid",
]


@pytest.fixture(scope="module", params=RECURRENT)
def hybrid(request, tmp_path_factory):
    return Policy(save_family(request.param, tmp_path_factory.mktemp(request.param)))


def test_rows_of_other_lengths_and_a_second_turn_are_sampled_as_the_model_computes_them(hybrid):
    asked = [*requests(hybrid, 3), *requests(hybrid, 7)[3:]]
    engine = TorchEngine(hybrid, batch_size=3)  # rows wait, enter beside running ones, and leave
    with pytest.warns(UserWarning, match="recurrent layers.*copies its prompt.*compute their whole prompt again"):
        first = engine.sample(asked, temperature=1.0, max_tokens=9, keep=True)
    second = spoken(hybrid, asked, first)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it was said
        again = engine.sample(second, temperature=1.0, max_tokens=9)
    for request, sample in zip([*asked, *second], [*first, *again], strict=True):
        assert plain(hybrid, request, sample.ids) == pytest.approx(sample.logprobs, abs=1e-4)


@torch.no_grad()
def test_padding_behind_a_row_does_not_reach_it(hybrid):
    torch.manual_seed(2)
    rows = [torch.randint(1, 12, (length,)) for length in (5, 70, 131)]  # more than a chunk of the scans
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    together = hidden_states(hybrid.decoder, padded)
    for row, states in zip(rows, together, strict=True):
        alone = hidden_states(hybrid.decoder, row[None])[0]
        assert torch.allclose(states[: len(row)], alone, atol=1e-4, rtol=1e-3)


@pytest.mark.filterwarnings("ignore")
def test_the_gradient_does_not_depend_on_padding_or_checkpointing(hybrid):
    examples = make_examples(hybrid)
    together, statistics = gradient(hybrid, examples, LearnerSettings(packing="padded"))
    assert statistics.gap < 1e-4
    for more in ({"tokens_per_microbatch": 1}, {"gradient_checkpointing": True}):
        other, _ = gradient(hybrid, examples, LearnerSettings(packing="padded", **more))
        for name, expected in together.items():
            torch.testing.assert_close(other[name], expected, atol=1e-4, rtol=1e-4)


def test_it_is_not_learned_from_trees(hybrid):
    assert check_tree_support(hybrid, [], "prefix_tree") == "it has recurrent layers"


class TestContract(SamplesAPolicy):
    """Of a model with both kinds of layers."""

    draws = 1500

    @pytest.fixture(scope="class")
    @classmethod
    def policy(cls, tmp_path_factory):
        return Policy(save_family("lfm2", tmp_path_factory.mktemp("lfm2"), max_position_embeddings=128))

    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls, policy):
        return TorchEngine(policy)


@pytest.mark.parametrize("lost", ["conv_states", "recurrent_states"])
def test_states_that_do_not_move_with_their_rows_are_noticed(tmp_path, monkeypatch, lost):
    policy = Policy(save_family("qwen3.5", tmp_path))
    concatenate = StateLayer.concatenate

    def first_row_for_all(parts, columns):
        layer = concatenate(parts, columns)
        states = getattr(layer, lost)
        setattr(layer, lost, {i: state[:1].expand_as(state).clone() for i, state in states.items()})
        return layer

    monkeypatch.setattr(StateLayer, "concatenate", staticmethod(first_row_for_all))
    with pytest.raises(UserError, match="behind cached tokens this model computes other logits"):
        check_cached_rows(policy)
