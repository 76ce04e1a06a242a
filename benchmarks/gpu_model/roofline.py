"""A pretend GPU whose large tensors hold no numbers: operations, bytes, launches and memory of what runs on it.

Integers and what is copied from the host keep their numbers, so that code which looks at them goes its real way.
Whatever is made of weights has a shape and a type alone (torch's device `meta`). An operation takes as long as its
arithmetic or its bytes need, whichever is longer, and never less than a kernel's start.
"""

from __future__ import annotations

from collections import Counter
from math import prod
from typing import Any

import torch
from support.pretend_gpu.device import OnGpu, replace_leaves
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from scorl.estimate.device import Cost, Device
from scorl.estimate.ledger import Ledger

__all__ = ["Roofline"]

aten = torch.ops.aten
CPU, META = torch.device("cpu"), torch.device("meta")

KERNEL = 2e-6
"""Seconds of the smallest kernel (assumed)."""
NUMBER = 1e-5
"""What is read off a tensor without numbers: a gradient norm that counts as one, a gap that no guard objects to."""
FEW = 2**16
"""Integers that are kept as numbers, whatever they come of."""
ATTENTION = {
    aten._scaled_dot_product_flash_attention,
    aten._scaled_dot_product_flash_attention_backward,
    aten._scaled_dot_product_efficient_attention,
    aten._scaled_dot_product_efficient_attention_backward,
}
EMPTY = {aten.empty, aten.empty_like, aten.new_empty, aten.empty_strided, aten._unsafe_view, aten.lift_fresh}
"""Operations that touch no memory."""
TAKE = {aten.embedding, aten.index, aten.gather, aten.index_select}
"""Operations that read as much as they write, however large what they read from is."""


class Roofline(Ledger):
    """Computes for `pretend_gpu`, and counts for a device."""

    def __init__(self, device: Device) -> None:
        super().__init__()
        self.device = device
        self.kinds: Counter[str] = Counter()
        """Seconds by operation."""

    def __call__(self, func: Any, args: Any, kwargs: dict[str, Any], stays: bool) -> Any:
        """See `support.pretend_gpu.device.Compute`."""
        gpu = [x for x in tree_leaves((args, kwargs)) if isinstance(x, OnGpu)]
        hollow = any(x.inner.is_meta for x in gpu)
        if hollow and not stays:
            return _read(func, args[0])
        if hollow:
            for x in _written(func, args):  # it has no numbers any more either
                x.inner = x.inner.to(META)
        inner, more = replace_leaves(args, _inside), {key: replace_leaves(x, _inside) for key, x in kwargs.items()}
        if hollow and func is aten.index.Tensor:
            inner = (inner[0], list(map(_places, inner[1])))
        if more.get("device") not in (None, META):
            more["device"] = META if hollow or (stays and _needs_no_numbers(func, args, kwargs)) else CPU
        if hollow:
            inner, more = replace_leaves(inner, _to_meta), {key: replace_leaves(x, _to_meta) for key, x in more.items()}
        out = func(*inner, **more)
        if stays:
            self.follow(func, [x.inner for x in gpu], tree_leaves(out))
            if not _is_free(func):
                self._count(func, inner, more, out)
        return replace_leaves(out, _zeros) if hollow and stays and _is_new(func) else out

    def _count(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        packet = func._overloadpacket
        inputs, outputs = ([x for x in tree_leaves(x) if isinstance(x, Tensor)] for x in ((args, kwargs), out))
        formula = flop_registry.get(packet)
        flops = formula(*args, **kwargs, out_val=out) if formula else 0
        if packet in ATTENTION:
            rate = self.device.attention
        else:
            rate = self.device.single if outputs and outputs[0].dtype == torch.float32 else self.device.half
        size = sum(map(_bytes, outputs)) + sum(map(_bytes, outputs if packet in TAKE else inputs))
        seconds = max(flops / rate, size / self.device.bandwidth, KERNEL)
        self.kinds[func._schema.name.removeprefix("aten::")] += seconds
        self.add(Cost(seconds, flops, size, 1))


def _read(func: Any, tensor: OnGpu) -> Any:
    """What the host gets of a tensor without numbers."""
    if func is aten.equal.default:
        return False
    number = NUMBER if tensor.is_floating_point() else 0
    if func is aten._local_scalar_dense.default:
        return bool(number) if tensor.dtype == torch.bool else number
    return torch.full(tensor.shape, number, dtype=tensor.dtype)  # a copy


def _needs_no_numbers(func: Any, args: Any, kwargs: Any) -> bool:
    """Whether an operation brings a mask of attention to the GPU, or makes fractions there out of nothing."""
    given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    dtype = given[0].dtype if given else kwargs.get("dtype") or torch.get_default_dtype()
    if dtype == torch.bool:
        return (given[0].dim() if given else len(args[0])) > 1
    return not given and dtype.is_floating_point and func is not aten.arange.default


def _inside(value: Any) -> Any:
    return value.inner if isinstance(value, OnGpu) else value


def _to_meta(value: Any) -> Any:
    return value.to(META) if isinstance(value, Tensor) else value


def _written(func: Any, args: Any) -> list[OnGpu]:
    """The arguments that an operation changes in place."""
    pairs = zip(func._schema.arguments, args, strict=False)
    return [x for what, x in pairs if what.alias_info and what.alias_info.is_write and isinstance(x, OnGpu)]


def _places(index: Tensor | None) -> Tensor | None:
    """The places of a real mask in its stead: how many elements are taken of a tensor must be known."""
    if index is not None and index.dtype == torch.bool:
        (index,) = index.nonzero(as_tuple=True)
    return index


def _is_new(func: Any) -> bool:
    """Whether an operation's results share memory with none of its arguments."""
    return not any(result.alias_info for result in func._schema.returns)


def _zeros(value: Any) -> Any:
    """Few integers get numbers again, though not the right ones: code looks at them to go on."""
    if isinstance(value, Tensor) and value.is_meta and not value.is_floating_point() and value.numel() <= FEW:
        return torch.zeros(value.shape, dtype=value.dtype)
    return value


def _is_free(func: Any) -> bool:
    """Whether an operation only looks at memory in another way."""
    views = any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)
    return views or func._overloadpacket in EMPTY


def _bytes(tensor: Tensor) -> int:
    """Bytes that are read or written; what is expanded is read once."""
    sizes = (size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride)
    return prod(sizes) * tensor.element_size()
