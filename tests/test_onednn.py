"""Products by oneDNN are torch's own but for the order of summation, forward and backward."""

import copy

import pytest
import torch
from support.worlds import save_model
from torch import nn
from torch.nn import functional as F

from scorl.errors import UserError
from scorl.model import onednn as room
from scorl.model.loading import count_parameters
from scorl.model.onednn import OnednnLinear, onednn_linear, onednn_weight_gradient, use_onednn
from scorl.model.policy import Policy
from scorl.model.rates import CpuRates
from scorl.settings import LoraSettings, ModelSettings


@pytest.fixture
def by_onednn(monkeypatch):
    """The matmuls that oneDNN is asked for."""
    made = []
    times = room.matmul_onednn
    monkeypatch.setattr(
        room, "matmul_onednn", lambda x, weight: made.append((x.shape, weight.shape)) or times(x, weight)
    )
    return made


def numbers(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).requires_grad_()


@pytest.mark.parametrize("shape", [(300, 96), (2, 150, 96), (1, 300, 96)])
@pytest.mark.parametrize("bias", [False, True])
def test_values_and_gradients_are_torchs(by_onednn, shape, bias):
    inputs = (numbers(*shape), numbers(64, 96), numbers(64) if bias else None)
    leaves = [x for x in inputs if x is not None]
    ours, torchs = onednn_linear(*inputs), F.linear(*inputs)
    weights = numbers(*torchs.shape).detach()
    torch.testing.assert_close(ours, torchs, atol=2e-5, rtol=2e-5)
    for a, b in zip(*(torch.autograd.grad((y * weights).sum(), leaves) for y in (ours, torchs)), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    assert len(by_onednn) == 3  # forward, and the gradients of x and W


def test_a_frozen_weight_costs_no_gradient(by_onednn):
    x, weight = numbers(300, 96), numbers(64, 96).detach()
    onednn_linear(x, weight).sum().backward()
    assert len(by_onednn) == 2


def test_without_gradients_nothing_is_recorded(by_onednn):
    with torch.inference_mode():
        product = onednn_linear(numbers(300, 96), numbers(64, 96))
    assert product.grad_fn is None
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
    assert torch.equal(onednn_linear(x, weight), F.linear(x, weight))
    assert not by_onednn


@pytest.mark.parametrize("rows", [(300,), (2, 150)])
def test_autocast_multiplies_filled_rows_by_torch(by_onednn, monkeypatch, rows):
    """torch gives bfloat16 to oneDNN by itself, which compiles a kernel for each number of rows."""
    seen = []
    monkeypatch.setattr(F, "linear", lambda x, *rest, by=F.linear: seen.append(len(x)) or by(x, *rest))
    x, weight, bias = numbers(*rows, 96), numbers(64, 96), numbers(64)
    with torch.autocast("cpu", torch.bfloat16):
        ours = onednn_linear(x, weight, bias)
        assert seen == [304]
        torchs = F.linear(x, weight, bias)
    assert ours.dtype == torch.bfloat16
    for one, other in zip(
        (ours, *torch.autograd.grad(ours.sum(), (x, weight, bias))),
        (torchs, *torch.autograd.grad(torchs.sum(), (x, weight, bias))),
        strict=True,
    ):
        torch.testing.assert_close(one, other)
    assert not by_onednn


def test_the_gradient_of_a_weight_in_bfloat16_is_torchs():
    gradient, x = numbers(300, 64).bfloat16().detach(), numbers(300, 96).bfloat16().detach()
    torch.testing.assert_close(onednn_weight_gradient(gradient, x), gradient.t() @ x)


def test_a_model_keeps_its_weights_and_its_copies_theirs(by_onednn):
    class Other(nn.Linear):
        """What somebody else made of a linear layer."""

    model = nn.Sequential(nn.Linear(96, 64), Other(64, 64))
    before = model.state_dict()
    use_onednn(model)
    assert [type(layer) for layer in model] == [OnednnLinear, Other]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[0].weight.zero_()
        assert other[0](numbers(300, 96)).eq(other[0].bias).all()
        assert not model[0](numbers(300, 96)).eq(model[0].bias).all()


def test_few_kernels_do_for_all_numbers_of_rows():
    """A kernel that oneDNN has compiled stays: without this a run would grow with every length of a micro-batch."""
    filled = [len(room.fill_rows(torch.zeros(rows, 1))) for rows in range(1, 4097)]
    assert all(rows <= full <= max(rows * 17 / 16, rows) + 1 for rows, full in enumerate(filled, 1))
    assert len(set(filled)) <= 16 + 16 * 8
    assert filled[299] == 304


@pytest.mark.parametrize("faster", [True, False])
@pytest.mark.parametrize("setting", [True, False, None])
def test_a_policy_multiplies_by_what_is_faster_unless_it_is_told(tmp_path, monkeypatch, faster, setting):
    monkeypatch.setattr("scorl.model.onednn.onednn_is_known_faster", lambda: faster)
    policy = Policy.of(ModelSettings(save_model(tmp_path), onednn=setting))
    kinds = {type(module) for module in policy.model.modules() if isinstance(module, nn.Linear)}
    assert kinds == {OnednnLinear if (faster if setting is None else setting) else nn.Linear}


def test_a_policy_in_bfloat16_fills_rows(tmp_path):
    policy = Policy(save_model(tmp_path), dtype="bfloat16", device="cpu", onednn=False)
    assert {type(m) for m in policy.model.modules() if isinstance(m, nn.Linear)} == {OnednnLinear}


def test_in_bfloat16_the_setting_means_nothing(tmp_path, monkeypatch):
    """Runs of it once wrote down true, which a torch without oneDNN must not stumble over."""
    monkeypatch.setattr("scorl.model.policy.has_onednn", lambda: False)
    monkeypatch.setattr(room, "has_onednn", lambda: False)
    policy = Policy(save_model(tmp_path), dtype="bfloat16", device="cpu", onednn=True)
    assert {type(m) for m in policy.model.modules() if isinstance(m, nn.Linear)} == {nn.Linear}


def test_a_policy_decides_by_the_size_that_its_configuration_says(tmp_path, monkeypatch):
    """As a recipe does: adapters do not count."""
    monkeypatch.setattr("scorl.model.rates.cpu_rates", lambda: CpuRates(1.0, 9.0, 1.0))
    monkeypatch.setattr("scorl.model.onednn.onednn_is_known_faster", lambda: False)
    path = save_model(tmp_path)
    monkeypatch.setattr("scorl.model.dtype.LARGE", count_parameters(path) + 1)
    policy = Policy(path, device="cpu", lora=LoraSettings(r=4))
    assert policy.model.num_parameters() > count_parameters(path)
    assert not any(isinstance(m, OnednnLinear) for m in policy.model.modules())


def test_a_torch_without_onednn_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(room, "has_onednn", lambda: False)
    with pytest.raises(UserError, match=r"model\.onednn: this build of torch has no oneDNN"):
        Policy(save_model(tmp_path), onednn=True)
