"""Linear layers that multiply by oneDNN: in float32 in place of MKL, for processors on which MKL is slow.

On a CPU torch hands matmuls of float32 to MKL, whose kernels for AMD's processors lag behind those for Intel's
(https://github.com/pytorch/builder/issues/504). oneDNN, which torch brings along too, uses AVX-512 on both, and takes
less than half the time on some of AMD's, and hardly less on others (benchmarks/products.py). Once torch chooses so by
itself, that can go. bfloat16 torch gives to oneDNN by itself; there these layers bound how many kernels it compiles.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from scorl.errors import UserError

__all__ = [
    "OnednnLinear",
    "fill_rows",
    "has_onednn",
    "matmul_onednn",
    "missing_rows",
    "onednn_is_known_faster",
    "onednn_linear",
    "onednn_weight_gradient",
    "use_onednn",
]

WORTH = 2_000_000
"""Operations of a matmul from which on oneDNN, whose calls take longer to begin, is the faster."""


def use_onednn(model: nn.Module) -> None:
    """Let the plain linear layers of a model multiply by oneDNN; its weights and their names stay.

    Raises:
        UserError: this build of torch has no oneDNN.
    """
    if not has_onednn():
        raise UserError("model.onednn: this build of torch has no oneDNN; leave the key out, or set it to false")
    for module in model.modules():
        if type(module) is nn.Linear:  # no subclass: what it adds would be lost
            module.__class__ = OnednnLinear


@cache
def onednn_is_known_faster() -> bool:
    """Whether this processor is of those that multiply faster by oneDNN than by MKL, or about as fast.

    Asked of its name and not of a clock, so that small models always add in the same order; large ones are measured
    (`scorl.model.rates`).
    """
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # older torch does not say the name
    amd = str(capabilities.get("cpu_name", "")).startswith("AMD")
    return amd and torch.backends.cpu.get_cpu_capability() == "AVX512" and has_onednn()


class OnednnLinear(nn.Linear):
    """A linear layer that multiplies by `onednn_linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """x W^T + b, [..., n] -> [..., m]."""
        return onednn_linear(x, self.weight, self.bias)


def onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.linear`, large matmuls by oneDNN: the same but for the order of summation.

    Args:
        x: [..., n].
        weight: [m, n].
        bias: [m].

    Returns:
        [..., m].
    """
    if not _fits(x, weight):
        return _linear_of_filled_rows(x, weight, bias) if _is_half(x) else F.linear(x, weight, bias)
    multiply: Any = _Matmul.apply if torch.is_grad_enabled() else _multiply_rows
    product: Tensor = multiply(x, weight)
    return product if bias is None else product + bias


def onednn_weight_gradient(gradient: Tensor, x: Tensor) -> Tensor:
    """The gradient of `onednn_linear` by its weight, [m, n].

    Args:
        gradient: by its result, [rows, m].
        x: [rows, n].
    """
    if _fits(x, gradient.t()):
        return _weight_gradient(gradient, x)
    return fill_rows(gradient).t() @ fill_rows(x) if _is_half(x) else gradient.t() @ x


def has_onednn() -> bool:
    return hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _fits(x: Tensor, weight: Tensor) -> bool:
    return (
        x.dim() > 1
        and x.dtype == weight.dtype == torch.float32
        and x.device.type == weight.device.type == "cpu"
        and 2 * x.numel() * weight.shape[0] >= WORTH
        and not torch.is_autocast_enabled("cpu")
    )


def _is_half(x: Tensor) -> bool:
    """Whether rows are multiplied in bfloat16 on a CPU, which torch gives to oneDNN."""
    half = x.dtype == torch.bfloat16 or torch.is_autocast_enabled("cpu")
    return half and x.dim() > 1 and x.device.type == "cpu"


def _linear_of_filled_rows(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    rows = x.flatten(0, -2)
    return F.linear(fill_rows(rows), weight, bias)[: len(rows)].view(*x.shape[:-1], len(weight))


class _Matmul(torch.autograd.Function):
    """x W^T and its two gradients, which are such matmuls too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _multiply_rows(x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        of_x, of_weight = ctx.needs_input_grad
        return (
            _multiply_rows(gradient, weight.t()) if of_x else None,
            _weight_gradient(gradient, x) if of_weight else None,
        )


def _multiply_rows(x: Tensor, weight: Tensor) -> Tensor:
    """x W^T, [..., n] -> [..., m]."""
    rows = x.flatten(0, -2)
    product = matmul_onednn(fill_rows(rows), weight)[: len(rows)]
    # A view that leaves an autograd function may not be changed in place, as Gemma 3n does; of this one nobody knows.
    unviewed: Tensor = torch.ops.aten._unsafe_view(product, (*x.shape[:-1], len(weight)))
    return unviewed


def _weight_gradient(gradient: Tensor, x: Tensor) -> Tensor:
    """The gradient by the weight, [m, n], of a gradient by the product, [..., m], and its x, [..., n]."""
    return matmul_onednn(fill_rows(gradient.flatten(0, -2)).t(), fill_rows(x.flatten(0, -2)).t())


def fill_rows(x: Tensor) -> Tensor:
    """Rows of zeros below, as many as `missing_rows` says."""
    more = missing_rows(len(x))
    return F.pad(x, (0, 0, 0, more)) if more else x


def missing_rows(rows: int) -> int:
    """How many rows there are to the next of sixteen numbers of rows between two powers of two.

    oneDNN compiles a kernel for each number of rows, and keeps most of them, with as much memory as a product of that
    many rows takes, as long as the process lives.
    """
    return -rows % max(1, 1 << (rows - 1).bit_length() >> 5)


def matmul_onednn(x: Tensor, weight: Tensor) -> Tensor:
    """x W^T of two matrices, which may be views of transposed ones."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    return product
