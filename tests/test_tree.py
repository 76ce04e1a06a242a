"""Prefix trees: what is shared is computed once, and every model computes them as it computes plain rows."""

import warnings
import weakref
from dataclasses import replace

import pytest
import torch
from support.worlds import tiny_policy
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from scorl.learner import Learner, tree_check
from scorl.learner import batch as batch_module
from scorl.learner.attention import tree_attention, tree_hidden_states
from scorl.learner.batch import micro_batch, micro_batches, training_row
from scorl.learner.tree import make_blocks, pack_tree
from scorl.model.head import hidden_states
from scorl.settings import KL_IN, LearnerSettings, LoraSettings
from scorl.trajectory import Credit, Problem, Response, TrainingExample, Trajectory, Verdict

ROWS = [(1, 2, 3), (1, 2, 4, 5), (1, 2, 4, 6), (7, 8), (1, 2, 3), (7, 8, 9)]


def example(prompt, *answers, advantage=0.0):
    """A trajectory of as many attempts as answers; the token 9 asks for the next one."""
    attempts, context = [], tuple(prompt)
    for answer in answers:
        attempts.append(Response(context, answer, (0.0,) * len(answer), "", "stop", Verdict(0.0, "")))
        context += (*answer, 9)
    credits = tuple(Credit(advantage + turn, 0.2 + 0.1 * turn, 0.1 * turn) for turn in range(len(answers)))
    return TrainingExample(Trajectory(Problem("p", ()), 0, tuple(attempts)), credits)


def branching_examples():
    """Two problems; samples share prompts, some share first attempts, or the beginnings of second ones."""
    draw = torch.Generator().manual_seed(0)

    def tokens(n):
        return tuple(torch.randint(2, 12, (n,), generator=draw).tolist())

    found = []
    for size in (5, 11):
        prompt = tokens(size)
        for i in range(3):
            first = tokens(3 + 4 * i)
            found += [example(prompt, first, tokens(2 + 3 * j), advantage=i - 0.5 * j) for j in range(3)]
        found.append(example(prompt, first, (), advantage=0.3))
        found.append(example(prompt, (), advantage=0.3))
    return found


@pytest.fixture(scope="module")
def examples():
    return branching_examples()


def test_a_tree_by_hand():
    tree, paths = pack_tree(ROWS)
    assert tree.ids.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert tree.depth.tolist() == [0, 1, 2, 2, 3, 3, 0, 1, 2]
    assert [path.tolist() for path in paths] == [[0, 1, 2], [0, 1, 3, 4], [0, 1, 3, 5], [6, 7], [0, 1, 2], [6, 7, 8]]
    assert tree.first.tolist() == [0, 0, 0, 2, 2, 3, 4, 4, 5]
    assert tree.last.tolist() == [3, 3, 1, 3, 2, 3, 5, 5, 5]
    root, rest = make_blocks(tree).parts
    assert (root.query.tolist(), root.mask) == ([[6, 7, 0], [0, 1, 2]][: len(root.query)], None)
    assert rest.query.tolist() == [[8, 0], [5, 0], [3, 4]]
    assert rest.key.tolist() == [[6, 7, 8, 0], [0, 1, 3, 5], [0, 1, 3, 4]]
    assert rest.mask[2, 0].int().tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]


def gradient(policy, examples, settings):
    """The gradient of one step against a reference that lies a little apart, and its statistics."""
    if policy.lora:  # adapters that were trained before would be the reference
        for parameter in policy.parameters.values():
            parameter.data.zero_()
    learner = Learner(policy, settings, total=1)
    torch.manual_seed(0)
    if policy.lora:
        for parameter in policy.parameters.values():
            parameter.data = 0.1 * torch.randn_like(parameter)
    else:
        for parameter in learner.reference.head.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
    statistics = learner.accumulate_gradients(examples)
    found = {name: p.grad.clone() for name, p in policy.parameters.items()}
    learner.optimizer.zero_grad(set_to_none=True)
    return found, statistics


@pytest.mark.parametrize("lora", [None, LoraSettings(r=4)], ids=["full", "lora"])
@pytest.mark.parametrize("kl", KL_IN)
def test_trees_have_the_gradient_of_rows(examples, tmp_path, kl, lora):
    policy = tiny_policy(tmp_path, lora=lora)
    rows = LearnerSettings(kl=kl, kl_in=KL_IN[kl][0], packing="padded")
    plain, statistics = gradient(policy, examples, rows)
    assert max(g.abs().max() for g in plain.values()) > 0.01
    ways = [(packing, *way) for packing in ("prefix_tree", "packed") for way in ((10_000, 1), (60, -1), (1, 1))]
    for packing, tokens, order in ways:
        packed, other = gradient(
            policy, examples[::order], replace(rows, packing=packing, tokens_per_microbatch=tokens)
        )
        for name in plain:
            torch.testing.assert_close(packed[name], plain[name], atol=1e-5, rtol=1e-5)
        assert other.loss == pytest.approx(statistics.loss, abs=1e-5)
        assert other.kl == pytest.approx(statistics.kl, abs=1e-5)


@pytest.mark.parametrize("packing", ["prefix_tree", "padded"])
@pytest.mark.parametrize("lora", [None, LoraSettings(r=4)], ids=["full", "lora"])
def test_checkpointing_keeps_the_gradient_and_less_memory(examples, tmp_path, lora, packing):
    policy = tiny_policy(tmp_path, lora=lora)
    found, kept = [], []
    for checkpointing in (False, True):
        sizes = []

        def note(tensor, sizes=sizes):
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            settings = LearnerSettings(packing=packing, gradient_checkpointing=checkpointing)
            found.append(gradient(policy, examples, settings)[0])
        kept.append(sum(sizes))
    for name in found[0]:
        torch.testing.assert_close(found[1][name], found[0][name], atol=1e-6, rtol=1e-6)
    assert kept[1] < kept[0] / 2
    assert not any(module.training for module in policy.model.modules())


def test_shared_attempts_are_predicted_once(examples):
    (batch,) = micro_batches(examples, 10_000, "prefix_tree")
    rows = {training_row(example) for example in examples}
    prefixes = {row[: i + 1] for row in rows for i in range(len(row))}
    predictions = {
        (attempt.prompt_ids + attempt.ids)[: len(attempt.prompt_ids) + i + 1]
        for example in examples
        for attempt in example.trajectory.attempts
        for i in range(len(attempt.ids))
    }
    assert len(batch.layout.ids) == len(prefixes)
    assert len(batch.position) == len(predictions) < len(batch.prediction)


@pytest.mark.parametrize("tokens", [1, 25, 60, 10_000])
def test_micro_batches_hold_to_their_tokens(examples, tokens):
    batches = micro_batches(examples, tokens, "prefix_tree")
    for batch in batches:
        assert len(batch.layout.ids) <= tokens or batch.layout.depth.diff().eq(1).all()
    written = sum(len(a.ids) for example in examples for a in example.trajectory.attempts)
    assert sum(len(batch.prediction) for batch in batches) == written


def test_a_problem_is_divided_only_where_that_repeats_less_than_it_fills():
    """Three problems whose trees have 13 tokens: a prompt of 4, which dividing repeats, and 3 for each sample."""
    problems = [[example((p, p, p, p), (i,), (i, p)) for i in range(2, 5)] for p in (5, 6, 7)]
    rows = [row for rows in problems for row in rows]
    sizes = {tokens: [len(batch.length) for batch in micro_batches(rows, tokens, "prefix_tree")] for tokens in (19, 20)}
    assert sizes == {19: [6, 6, 6], 20: [8, 8, 2]}


def test_packed_rows_share_nothing_and_fill_micro_batches():
    problems = [example((5,), tuple(range(length))) for length in (6, 5, 5, 2, 2, 3, 1)]
    batches = micro_batches(problems, 8, "packed")  # rows of as many tokens: the last one of each predicts nothing
    assert [sorted(batch.length.tolist()) for batch in batches] == [[2, 6], [3, 5], [1, 2, 5]]
    assert [len(batch.layout.ids) for batch in batches] == [8, 8, 8]
    tree, paths = pack_tree(ROWS, shares=False)
    assert len(tree.ids) == sum(map(len, ROWS))
    assert [tree.ids[torch.from_numpy(path)].tolist() for path in paths] == [list(row) for row in ROWS]
    assert all(block.mask is None for block in make_blocks(tree).parts)


def test_a_micro_batch_is_laid_out_when_its_turn_comes(examples, tmp_path, monkeypatch):
    alive = weakref.WeakSet()
    most = 0

    def laid_out(*arguments):
        nonlocal most
        batch = micro_batch(*arguments)
        alive.add(batch.layout)
        most = max(most, len(alive))
        return batch

    monkeypatch.setattr(batch_module, "micro_batch", laid_out)
    settings = LearnerSettings(tokens_per_microbatch=25)
    assert len(micro_batches(examples, 25, "prefix_tree")) > 5
    gradient(tiny_policy(tmp_path), examples, settings)
    assert 1 <= most <= 2  # the one that is being learned from, and the next


def of_llama(**other):
    return LlamaForCausalLM(LlamaConfig(**SMALL, **other))


SMALL = {
    "vocab_size": 13,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}


@pytest.mark.parametrize(
    "model",
    [
        lambda: LlamaForCausalLM(LlamaConfig(**SMALL)),
        lambda: MistralForCausalLM(MistralConfig(**SMALL, sliding_window=4)),
        lambda: Gemma2ForCausalLM(
            Gemma2Config(**SMALL, sliding_window=5, attn_logit_softcapping=2.0, attn_implementation="eager")
        ),
    ],
    ids=["groups of heads", "sliding window", "soft cap and windows"],
)
def test_states_are_those_of_rows(examples, model):
    torch.manual_seed(1)
    decoder = model().eval()
    before = decoder.config._attn_implementation
    tree, paths = pack_tree([training_row(example) for example in examples if training_row(example)])
    with tree_attention(decoder):
        states = tree_hidden_states(decoder, tree.to(torch.device("cpu")))
    assert decoder.config._attn_implementation == before
    for path in paths:
        ids = tree.ids[torch.from_numpy(path)][None]
        plain = hidden_states(decoder, ids)[0]
        torch.testing.assert_close(states[torch.from_numpy(path)], plain, atol=1e-5, rtol=1e-5)


def test_a_model_that_trees_do_not_fit_learns_from_rows(examples, tmp_path, monkeypatch):
    settings = LearnerSettings(max_logprob_gap=9.0)
    learner = Learner(tiny_policy(tmp_path), settings, total=1)
    monkeypatch.setattr(tree_check, "tree_attention", lambda *_: tree_attention())  # it goes on attending as ever
    with pytest.warns(UserWarning, match="padded rows"):
        learner.update(examples)
    assert learner.packing == "padded"


def test_the_trial_passes_for_a_model_that_trees_fit(examples, tmp_path):
    learner = Learner(tiny_policy(tmp_path), LearnerSettings(max_logprob_gap=9.0), total=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        learner.update(examples)
    assert learner.packing == "prefix_tree"


def test_the_trial_waits_for_something_to_learn(examples, tmp_path, monkeypatch):
    """As where the rewards of all groups are equal in the first step, and no KL is taken."""
    learner = Learner(tiny_policy(tmp_path), LearnerSettings(max_logprob_gap=9.0), total=2)
    monkeypatch.setattr(tree_check, "tree_attention", lambda *_: tree_attention())  # as above
    learner.update([TrainingExample(e.trajectory, (Credit(),) * len(e.credits)) for e in examples])
    assert learner.packing is None
    with pytest.warns(UserWarning, match="padded rows"):
        learner.update(examples)
    assert learner.packing == "padded"
