"""Attention along trees by flex_attention, which is for GPUs, held on the CPU against the blocks that CPUs use."""

import random

import pytest
import torch
from support.worlds import tiny_policy
from test_tree import SMALL, branching_examples, gradient
from torch.nn.attention import flex_attention as torchs
from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM

from scorl.learner import attention, flex
from scorl.learner import tree as tree_module
from scorl.learner.attention import tree_attention, tree_hidden_states
from scorl.learner.flex import FlexTree
from scorl.learner.tree import Tree, pack_tree
from scorl.settings import LearnerSettings

CPU = torch.device("cpu")

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")


@pytest.fixture(autouse=True)
def gradients_on_the_cpu(monkeypatch):
    """Torch refuses flex_attention's gradient on a CPU; its own reference implementation has one on any device."""
    monkeypatch.setattr(torchs, "_validate_device", lambda *_: None)
    with torch._dynamo.config.patch(recompile_limit=1000):  # torch interprets by compiling for its backend "eager"
        yield


def random_rows(seed, longest=6):
    """Some problems, samples of each, and for some samples two second attempts."""
    draw = random.Random(seed)

    def tokens():
        return tuple(draw.choices(range(3), k=draw.randint(1, longest)))

    rows = []
    for _ in range(draw.randint(1, 3)):
        prompt = tokens()
        for _ in range(draw.randint(1, 4)):
            first = prompt + tokens()
            rows += [(*first, 9, *tokens()) for _ in range(draw.randint(1, 2))]
    return rows


def dense(paths, tokens, window=None):
    """Who attends to whom by the rows themselves, [tokens, tokens]."""
    allowed = torch.zeros(tokens, tokens, dtype=torch.bool)
    for path in map(torch.from_numpy, paths):
        causal = torch.ones(len(path), len(path), dtype=torch.bool).tril()
        allowed[path[:, None], path] |= causal if window is None else causal.triu(1 - window)
    return allowed


@pytest.mark.parametrize("window", [None, 9])
def test_the_mask_is_that_of_the_rows(monkeypatch, window):
    monkeypatch.setattr(flex, "TILE", 4)
    partly = wholly = without = 0
    for seed in range(200):
        tree, paths = pack_tree(random_rows(seed, longest=9))
        laid = FlexTree.fill(tree)
        mask, count = laid.mask(window), len(tree.ids)
        places = torch.arange(len(laid.ids))
        by_rule = mask.mask_mod(None, None, places[:, None], places[None])
        assert torch.equal(by_rule[:count, :count], dense(paths, count, window))
        assert not by_rule[:count, count:].any()
        assert not by_rule[count:, :count].any()
        assert by_rule.any(1).all()
        some, every = flex._sort_tiles(laid.first, laid.last, laid.depth, window)
        tiles = by_rule.unflatten(1, (-1, 4)).unflatten(0, (-1, 4))  # [tiles, queries, tiles, keys]
        assert torch.equal(every, tiles.all(3).all(1))
        assert (some >= tiles.any(3).any(1)).all()
        assert torch.equal(mask.to_dense()[0, 0].bool(), some | every)
        partly, wholly, without = partly + (some & ~every).sum(), wholly + every.sum(), without + (~some).sum()
    assert min(partly, wholly, without) > 100


KINDS = {
    "plain": (4, None, None),
    "groups": (2, None, None),
    "soft cap": (2, 1.5, None),
    "window": (2, None, 4),
    "soft cap and window": (1, 1.5, 4),
}
SEEDS = {kind: range(8 * i, 8 * (i + 1)) for i, kind in enumerate(KINDS)}


@pytest.mark.parametrize("kind", KINDS)
def test_attention_and_its_gradient_are_those_of_blocks(monkeypatch, kind):
    monkeypatch.setattr(flex, "TILE", 16)
    groups, softcap, window = KINDS[kind]
    for seed in SEEDS[kind]:
        tree, _ = pack_tree(random_rows(seed))
        torch.manual_seed(seed)
        laid, count = FlexTree.fill(tree), len(tree.ids)
        tokens = [torch.randn(1, heads, len(laid.ids), 16) for heads in (4, groups, groups)]
        weight = torch.randn(1, count, 4, 16)
        found = []
        for layout in (laid, tree.to(CPU)):
            q, k, v = (x[:, :, : len(layout.ids)].clone().requires_grad_() for x in tokens)
            out, _ = attention._attend(None, q, k, v, None, tree=layout, softcap=softcap, sliding_window=window)
            (out[:, :count] * weight).sum().backward()
            found.append([out[:, :count], *(x.grad[:, :, :count] for x in (q, k, v))])
        for by_flex, by_blocks in zip(*found, strict=True):
            torch.testing.assert_close(by_flex, by_blocks, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "model",
    [
        lambda: LlamaForCausalLM(LlamaConfig(**SMALL)),
        lambda: Gemma2ForCausalLM(
            Gemma2Config(**SMALL, sliding_window=5, attn_logit_softcapping=2.0, attn_implementation="eager")
        ),
    ],
    ids=["groups of heads", "soft cap and windows"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_models_have_the_states_of_blocks(model, dtype):
    torch.manual_seed(1)
    decoder = model().eval()
    tree, _ = pack_tree(random_rows(5, longest=12))
    with tree_attention(decoder), torch.no_grad(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        by_flex, by_blocks = (tree_hidden_states(decoder, layout).float() for layout in (tree, tree.to(CPU)))
    limit = 1e-5 if dtype == torch.float32 else 0.03
    assert (by_flex - by_blocks).norm() / by_blocks.norm() < limit


def test_a_large_tree_is_as_large_as_its_mask():
    """A CPU's products would fill up its rows from some thousands on."""
    decoder = LlamaForCausalLM(LlamaConfig(**SMALL)).eval()
    tree, _ = pack_tree([tuple(range(4, 9)) * 840])
    with tree_attention(decoder), torch.no_grad():
        assert len(tree_hidden_states(decoder, tree)) == 4200


@pytest.mark.parametrize(
    ("packing", "checkpointing"), [("prefix_tree", False), ("prefix_tree", True), ("packed", False)]
)
def test_a_step_has_the_gradient_of_blocks(tmp_path, monkeypatch, packing, checkpointing):
    policy, examples = tiny_policy(tmp_path), branching_examples()
    settings = LearnerSettings(packing=packing, gradient_checkpointing=checkpointing)
    by_blocks, _ = gradient(policy, examples, settings)
    monkeypatch.setattr(Tree, "to", lambda tree, device: tree)
    monkeypatch.setattr(tree_module, "make_blocks", lambda tree: pytest.fail("blocks were made"))
    by_flex, _ = gradient(policy, examples, settings)
    for name in by_blocks:
        torch.testing.assert_close(by_flex[name], by_blocks[name], atol=1e-5, rtol=1e-5)
