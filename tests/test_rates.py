"""What a CPU computes in follows from its measured rates, by margins that noise does not cross, and is written down."""

import pytest
import torch

from scorl.model.dtype import LARGE, choose_dtype, choose_onednn, explain_dtype
from scorl.model.loading import count_parameters
from scorl.model.rates import CpuRates, cpu_rates, least_seconds

CPU, GPU = torch.device("cpu"), torch.device("cuda")
SLOW_MKL, EQUAL, HALF_IS_FAST = CpuRates(40e9, 90e9, 95e9), CpuRates(90e9, 99e9, 130e9), CpuRates(90e9, 99e9, 190e9)


@pytest.fixture
def machine(monkeypatch):
    """A CPU of other rates, whose name says nothing."""

    def become(rates, known=False):
        monkeypatch.setattr("scorl.model.rates.cpu_rates", lambda: rates)
        monkeypatch.setattr("scorl.model.onednn.onednn_is_known_faster", lambda: known)

    return become


def uncounted():
    raise AssertionError("the number of parameters does not matter here")


@pytest.mark.parametrize(
    ("rates", "dtype", "onednn"),
    [(SLOW_MKL, "float32", True), (EQUAL, "float32", False), (HALF_IS_FAST, "bfloat16", False)],
)
def test_a_large_model_goes_by_the_rates(machine, rates, dtype, onednn):
    machine(rates)
    assert choose_dtype("auto", CPU, lambda: LARGE) == dtype
    assert choose_onednn(None, "float32", CPU, lambda: LARGE) == onednn
    assert "190 in bfloat16" in explain_dtype(CPU, lambda: LARGE) or rates is not HALF_IS_FAST


@pytest.mark.parametrize("known", [False, True])
def test_a_small_model_does_not(machine, known):
    for rates in (SLOW_MKL, EQUAL, HALF_IS_FAST):
        machine(rates, known)
        assert choose_dtype("auto", CPU, lambda: LARGE - 1) == "float32"
        assert choose_onednn(None, "float32", CPU, lambda: LARGE - 1) == known
        assert explain_dtype(CPU, lambda: LARGE - 1) is None


def test_what_is_said_or_on_a_gpu_is_not_measured(machine):
    machine(HALF_IS_FAST)
    assert choose_dtype("float32", CPU, uncounted) == "float32"
    assert choose_dtype("auto", GPU, uncounted) == "bfloat16"
    assert choose_onednn(True, "float32", CPU, uncounted)
    assert not choose_onednn(None, "float32", GPU, uncounted)
    assert not choose_onednn(None, "bfloat16", CPU, uncounted)
    assert explain_dtype(GPU, uncounted) is None


def test_the_rates_are_this_machines():
    rates = cpu_rates()
    assert rates is cpu_rates()
    assert 1e8 < rates.mkl <= rates.float32 < 1e14
    assert rates.bfloat16 > 1e7


def test_what_is_slow_is_measured_once(monkeypatch):
    times = iter(range(100))
    assert least_seconds(lambda: None, 5, limit=0.05, clock=lambda: float(next(times))) == 1.0
    assert next(times) == 2


def test_parameters_are_counted_without_weights():
    assert count_parameters("scorl:countdown-base") == 348_288
