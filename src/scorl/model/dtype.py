"""How a model is computed, where nobody says it: in which type, and on a CPU by whose products.

Up to `LARGE` parameters this follows from what a processor is, beyond by the rates that are measured on it
(`scorl.model.rates`): small models, whose runs are compared to the bit, must not depend on a clock.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from scorl.settings import Dtype

if TYPE_CHECKING:
    import torch

__all__ = ["LARGE", "Count", "choose_dtype", "choose_onednn", "explain_dtype"]

LARGE = 100_000_000
"""Parameters from which on a CPU is measured; the time of smaller models does not go into products alone."""

Count = Callable[[], int]
"""Counts a model's parameters; asked only where they matter."""


def choose_dtype(wanted: Dtype | Literal["auto"], device: torch.device, count: Count) -> Dtype:
    """What `model.dtype` means on a device, for a model with so many parameters.

    `auto` is bfloat16 on a GPU, whose tensor cores want it, and for a large model on a CPU that is measured to be
    clearly faster in it; else float32.
    """
    from scorl.model.rates import cpu_rates

    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bfloat16"
    return "bfloat16" if _is_measured(device, count) and cpu_rates().bfloat16_pays else "float32"


def explain_dtype(device: torch.device, count: Count) -> str | None:
    """What `choose_dtype` took for `auto` where it measured, in words; None: it did not."""
    from scorl.model.rates import cpu_rates

    return f"since this CPU reaches {cpu_rates()}" if _is_measured(device, count) else None


def choose_onednn(wanted: bool | None, dtype: Dtype, device: torch.device, count: Count) -> bool:
    """What `model.onednn` means for a model with so many parameters, computed on a device in a type."""
    from scorl.model.onednn import onednn_is_known_faster
    from scorl.model.rates import cpu_rates

    if wanted is not None:
        return wanted
    if dtype != "float32":
        return False
    if _is_measured(device, count):
        return cpu_rates().onednn_pays
    return device.type == "cpu" and onednn_is_known_faster()


def _is_measured(device: torch.device, count: Count) -> bool:
    return device.type == "cpu" and count() >= LARGE
