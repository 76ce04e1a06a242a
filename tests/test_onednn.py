"""Products by oneDNN are torch's own but for the order of summation, forward and backward."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from scorl.model import onednn as room
from scorl.model.onednn import Linear, linear, quicken


@pytest.fixture
def by_onednn(monkeypatch):
    """oneDNN, whatever the processor; the products that it is asked for."""
    made = []
    times = room._times
    monkeypatch.setattr(room, "onednn_is_faster", lambda: True)
    monkeypatch.setattr(room, "_times", lambda x, weight: made.append((x.shape, weight.shape)) or times(x, weight))
    return made


def numbers(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).requires_grad_()


@pytest.mark.parametrize("shape", [(300, 96), (2, 150, 96), (1, 300, 96)])
@pytest.mark.parametrize("bias", [False, True])
def test_values_and_gradients_are_torchs(by_onednn, shape, bias):
    given = (numbers(*shape), numbers(64, 96), numbers(64) if bias else None)
    leaves = [x for x in given if x is not None]
    mine, theirs = linear(*given), F.linear(*given)
    weights = numbers(*mine.shape).detach()
    ours = torch.autograd.grad((mine * weights).sum(), leaves)
    torchs = torch.autograd.grad((theirs * weights).sum(), leaves)
    assert mine.shape == theirs.shape
    torch.testing.assert_close(mine, theirs, atol=2e-5, rtol=2e-5)
    for a, b in zip(ours, torchs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    assert len(by_onednn) == 3  # forward, and the gradients of x and W


def test_a_frozen_weight_costs_no_gradient(by_onednn):
    x, weight = numbers(300, 96), numbers(64, 96).detach()
    linear(x, weight).sum().backward()
    assert len(by_onednn) == 2


def test_without_gradients_nothing_is_recorded(by_onednn):
    with torch.inference_mode():
        found = linear(numbers(300, 96), numbers(64, 96))
    assert found.grad_fn is None
    assert len(by_onednn) == 1


@pytest.mark.parametrize(
    ("x", "weight"),
    [
        (numbers(3, 8), numbers(4, 8)),  # hardly any work
        (numbers(300, 96).double(), numbers(64, 96).double()),
        (numbers(300, 96).bfloat16(), numbers(64, 96).bfloat16()),
        (numbers(300000), numbers(64, 300000)),
    ],
)
def test_other_products_stay_torchs(by_onednn, x, weight):
    assert torch.equal(linear(x, weight), F.linear(x, weight))
    assert not by_onednn


def test_autocast_stays_torchs(by_onednn):
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(numbers(300, 96), numbers(64, 96)).dtype == torch.bfloat16
    assert not by_onednn


def test_a_model_keeps_its_weights_and_its_copies_theirs(by_onednn):
    class Other(nn.Linear):
        """What somebody else made of a linear layer."""

    model = nn.Sequential(nn.Linear(96, 64), Other(64, 64))
    before = model.state_dict()
    quicken(model)
    assert [type(layer) for layer in model] == [Linear, Other]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[0].weight.zero_()
        assert other[0](numbers(300, 96)).eq(other[0].bias).all()
        assert not model[0](numbers(300, 96)).eq(model[0].bias).all()


def test_few_kernels_do_for_all_numbers_of_rows():
    """A kernel that oneDNN has compiled stays: without this a run would grow with every length of a micro-batch."""
    filled = [len(room._filled(torch.zeros(rows, 1))) for rows in range(1, 4097)]
    assert all(rows <= full <= max(rows * 17 / 16, rows) + 1 for rows, full in enumerate(filled, 1))
    assert len(set(filled)) <= 16 + 16 * 8
    assert filled[299] == 304
