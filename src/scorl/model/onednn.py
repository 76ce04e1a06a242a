"""Linear layers, also on processors whose matrices torch multiplies at half their rate.

On a CPU torch hands products of float32 to MKL, which uses AVX-512 on Intel's processors alone. oneDNN, which torch
brings along too, uses it on AMD's, and takes less than half the time there (benchmarks/products.py).
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

__all__ = ["KERNELS", "Linear", "linear", "onednn_is_faster", "quicken"]

WORTH = 2_000_000
"""Operations of a product from which on oneDNN, whose calls take longer to begin, is the faster."""
KERNELS = 2**26
"""Bytes that the kernels which oneDNN has compiled come to in a run, about."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.linear`, in what is faster here: the same but for the order of summation.

    Args:
        x: [..., n].
        weight: [m, n].
        bias: [m].

    Returns:
        [..., m].
    """
    if not (onednn_is_faster() and _fits(x, weight)):
        return F.linear(x, weight, bias)
    times: Any = _Product.apply if torch.is_grad_enabled() else _rows_times
    found: Tensor = times(x, weight)
    return found if bias is None else found + bias


class Linear(nn.Linear):
    """A linear layer that multiplies by `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """x W^T + b, [..., n] -> [..., m]."""
        return linear(x, self.weight, self.bias)


def quicken(model: nn.Module) -> None:
    """Let the plain linear layers of a model multiply by `linear`; its weights and their names stay."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = Linear


@cache
def onednn_is_faster() -> bool:
    """Whether this processor multiplies faster by oneDNN than by MKL; by its name, so that it is always the same."""
    amd = str(torch.cpu.get_capabilities().get("cpu_name", "")).startswith("AMD")
    return (
        amd and torch.backends.cpu.get_cpu_capability() == "AVX512" and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def _fits(x: Tensor, weight: Tensor) -> bool:
    return (
        x.dim() > 1
        and x.dtype == weight.dtype == torch.float32
        and x.device.type == weight.device.type == "cpu"
        and 2 * x.numel() * weight.shape[0] >= WORTH
        and not torch.is_autocast_enabled("cpu")
    )


class _Product(torch.autograd.Function):
    """x W^T and its two gradients, which are such products too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _rows_times(x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        of_x, of_weight = ctx.needs_input_grad
        gradients = _filled(gradient.flatten(0, -2))
        return (
            _times(gradients, weight.t())[: x[..., 0].numel()].view_as(x) if of_x else None,
            _times(gradients.t(), _filled(x.flatten(0, -2)).t()) if of_weight else None,
        )


def _rows_times(x: Tensor, weight: Tensor) -> Tensor:
    """x W^T, [..., n] -> [..., m]."""
    rows = x.flatten(0, -2)
    return _times(_filled(rows), weight)[: len(rows)].view(*x.shape[:-1], len(weight))


def _filled(x: Tensor) -> Tensor:
    """Rows of zeros below, up to the next of sixteen numbers of rows between two powers of two.

    oneDNN compiles a kernel for each number of rows, and keeps most of them as long as the process lives.
    """
    rows = len(x)
    step = max(1, 1 << (rows - 1).bit_length() >> 5)
    more = -rows % step
    return F.pad(x, (0, 0, 0, more)) if more else x


def _times(x: Tensor, weight: Tensor) -> Tensor:
    """x W^T of two matrices, which may be views of transposed ones."""
    found: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    return found
