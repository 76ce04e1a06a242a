"""The head's one autograd function against autograd's own way through the same formulas."""

import functools
import itertools
from types import SimpleNamespace

import pytest
import torch
from support.plain import kl_of_rows
from torch import nn

from scorl.learner import head_block
from scorl.learner.head import Head, predict
from scorl.learner.head_block import BLOCK_BYTES
from scorl.learner.loss import estimate_kl
from scorl.model.onednn import has_onednn, use_onednn

WIDTH, WORDS, COUNT = 16, 50, 12


class Decoder(nn.Module):
    """What the head asks of a decoder."""

    def __init__(self, seed: int, bias: bool = False, cap: float | None = None, trained: bool = True) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.head = nn.Linear(WIDTH, WORDS, bias=bias).requires_grad_(trained)
        self.config = SimpleNamespace(final_logit_softcapping=cap)

    def get_output_embeddings(self) -> nn.Linear:
        return self.head


def plain(decoder, reference, hidden, ref_hidden, target, temperature, kind):
    """log pi and KL of the targets, the long way."""

    def logprobs(model, states):
        logits, cap = model.head(states), model.config.final_logit_softcapping
        logits = logits if cap is None else torch.tanh(logits / cap) * cap
        return torch.log_softmax(logits.float() / (temperature or 1.0), -1)

    policy, other = logprobs(decoder, hidden), logprobs(reference, ref_hidden).detach()
    return policy.gather(1, target[:, None])[:, 0], kl_of_rows(kind, policy, other, target)


def ours(decoder, reference, hidden, ref_hidden, target, temperature, kind, dtype=torch.float32):
    head = Head(decoder, dtype)
    said = predict(head, Head(reference, dtype), hidden, ref_hidden, target, temperature, kind == "exact")
    return head, said.logprobs, said.kl if kind == "exact" else estimate_kl(kind, said.logprobs, said.ref_logprobs)


def states(seed: int):
    torch.manual_seed(seed)
    hidden, ref_hidden = 3 * torch.randn(2, COUNT, WIDTH)
    return hidden.requires_grad_(), ref_hidden, torch.randint(0, WORDS, (COUNT,)), torch.randn(COUNT), torch.rand(COUNT)


@pytest.fixture(params=["in place", "fused"])
def way(request, monkeypatch):
    """The formulas of CPUs, and those that are compiled on GPUs, here one operation after the other."""
    if request.param == "fused":
        monkeypatch.setattr(head_block, "_fused", lambda formula: formula)
        monkeypatch.setattr("scorl.learner.head_block.BLOCKS", {"cpu": head_block.FusedBlock.of})


@pytest.fixture(params=[COUNT, 5, 1], ids=["a block", "blocks", "a prediction a block"])
def blocks(request, monkeypatch):
    monkeypatch.setitem(BLOCK_BYTES, "cpu", 4 * WORDS * request.param)


@pytest.mark.parametrize("kind", ["exact", "k1", "k2", "k3"])
@pytest.mark.parametrize("temperature", [1.0, 0.0, 0.7])
@pytest.mark.parametrize(("bias", "cap"), [(False, None), (True, 2.0)], ids=["plain", "bias and soft cap"])
@pytest.mark.usefixtures("blocks", "way")
def test_values_and_gradients_are_autograds(kind, temperature, bias, cap):
    decoder, reference = Decoder(0, bias, cap), Decoder(1, bias, cap)
    hidden, ref_hidden, target, c, g = states(2)
    chosen, kl = plain(decoder, reference, hidden, ref_hidden, target, temperature, kind)
    ((c * chosen).sum() + (g * kl).sum()).backward()
    expected = [hidden.grad, *(p.grad for p in decoder.parameters())]
    hidden.grad = None
    head, our_chosen, our_kl = ours(decoder, reference, hidden, ref_hidden, target, temperature, kind)
    torch.testing.assert_close(our_chosen, chosen, rtol=0, atol=2e-6)
    torch.testing.assert_close(our_kl, kl, rtol=1e-5, atol=2e-6)
    ((c * our_chosen).sum() + (g * our_kl).sum()).backward()
    gradients = [hidden.grad, *(head.gradients[name] for name, _ in decoder.head.named_parameters())]
    torch.testing.assert_close(gradients, expected, rtol=1e-5, atol=2e-5)


@pytest.mark.usefixtures("blocks", "way")
def test_without_a_reference_there_is_no_kl():
    decoder = Decoder(0)
    hidden, _, target, c, _ = states(2)
    said = predict(Head(decoder, torch.float32), None, hidden, None, target, 1.0, exact_kl=True)
    assert said.ref_logprobs is None
    assert said.kl is None
    (c * said.logprobs).sum().backward()
    (expected,) = torch.autograd.grad(
        (c * torch.log_softmax(decoder.head(hidden), -1).gather(1, target[:, None])[:, 0]).sum(), hidden
    )
    torch.testing.assert_close(hidden.grad, expected, rtol=1e-5, atol=1e-5)


def test_a_gpu_compiles_for_every_vocabulary_and_temperature(monkeypatch):
    """Beyond a limit torch would run the formulas as they are, in several times the memory; here it fails there."""
    compile_with = torch.compile
    monkeypatch.setattr(torch, "compile", lambda formula: compile_with(formula, backend="eager"))
    monkeypatch.setattr(head_block, "_compile", functools.cache(head_block._compile.__wrapped__))
    kinds = itertools.product((40, 50), (0.7, 1.0), (None, 30.0), (True, False), (True, False), (4, 7, 1))
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        for words, temperature, cap, referred, exact, count in kinds:
            logits = head_block.Logits(torch.randn(count, words), cap, temperature)
            one, target = torch.ones(count), torch.zeros(count).long()
            block = head_block.FusedBlock.of(logits, logits if referred else None, target, exact)
            assert block.logit_gradient(target, one, one if exact and referred else None).shape == (count, words)


def test_without_a_compiler_the_head_is_computed_by_single_operations(monkeypatch):
    def fail(formula):
        raise RuntimeError("no C compiler here")

    monkeypatch.setattr(torch, "compile", fail)
    monkeypatch.setattr(head_block, "_compile", head_block._compile.__wrapped__)
    monkeypatch.setattr(head_block, "_can_fuse", head_block._can_fuse.__wrapped__)
    monkeypatch.setattr(head_block, "BLOCKS", {"cpu": head_block.FusedBlock.of})
    logits = head_block.Logits(torch.zeros(1, 4), None, 1.0)
    with pytest.warns(UserWarning, match="no C compiler here"):
        block = head_block.compute_block(logits, None, torch.zeros(1).long(), False)
    assert isinstance(block, head_block.InPlaceBlock)
    with pytest.warns(UserWarning, match="single operations"):
        size = head_block.block_size(torch.device("cpu"), torch.bfloat16, 1024)
    assert size == (64 << 20) // (4 * 1024)


def test_a_frozen_head_has_no_gradient():
    decoder = Decoder(0, trained=False)
    hidden, ref_hidden, target, c, _ = states(2)
    head, chosen, _ = ours(decoder, Decoder(1), hidden, ref_hidden, target, 1.0, "exact")
    (c * chosen).sum().backward()
    assert head.gradients == {}
    assert hidden.grad.any()


@pytest.mark.skipif(not has_onednn(), reason="this build of torch has no oneDNN")
def test_onednn_multiplies_where_the_model_does(monkeypatch):
    monkeypatch.setattr("scorl.model.onednn.WORTH", 0)
    decoder, reference = Decoder(0), Decoder(1)
    hidden, ref_hidden, target, c, g = states(2)
    chosen, kl = plain(decoder, reference, hidden, ref_hidden, target, 1.0, "exact")
    ((c * chosen).sum() + (g * kl).sum()).backward()
    expected = hidden.grad, decoder.head.weight.grad
    hidden.grad = None
    use_onednn(decoder)
    head, our_chosen, our_kl = ours(decoder, reference, hidden, ref_hidden, target, 1.0, "exact")
    ((c * our_chosen).sum() + (g * our_kl).sum()).backward()
    torch.testing.assert_close((hidden.grad, head.gradients["weight"]), expected, rtol=1e-5, atol=2e-5)


def test_in_bfloat16_the_weight_is_cast_once_and_its_gradient_is_summed_in_float32(monkeypatch):
    """Against float32 truth: 64 blocks that pull the same way, whose sum in bfloat16 would stop to grow."""
    monkeypatch.setitem(BLOCK_BYTES, "cpu", 4 * WORDS)
    decoder = Decoder(0)
    torch.manual_seed(3)
    hidden, target = torch.randn(1, WIDTH).repeat(600, 1).requires_grad_(), torch.zeros(600, dtype=torch.long)
    head = Head(decoder, torch.bfloat16)
    said = predict(head, None, hidden, None, target, 1.0, exact_kl=False)
    said.logprobs.sum().backward()
    casts = {id(head.weight) for _ in range(3)}
    truth = decoder.head(hidden).log_softmax(-1)[:, 0].sum()
    (expected,) = torch.autograd.grad(truth, decoder.head.weight)
    gradient = head.gradients["weight"]
    assert gradient.dtype == torch.float32
    assert len(casts) == 1
    assert float((gradient - expected).norm() / expected.norm()) < 0.01
