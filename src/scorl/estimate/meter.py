"""A dispatch mode that follows what runs on hollow tensors: operations, bytes, seconds on a device, live memory.

A hollow tensor has a shape and a type but no numbers, so that a model of any size runs in seconds. Real tensors may
stand beside them (the places of a layout, credits), and are computed with as ever. Torch's own `FakeTensorMode` does as
much, but takes twice the time, and its process crashed whenever Python collected garbage (torch 2.13).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import flop_registry

from scorl.estimate.device import Cost, Device
from scorl.estimate.ledger import Ledger

__all__ = ["Hollow", "Meter"]

aten = torch.ops.aten
CPU, META = torch.device("cpu"), torch.device("meta")

NUMBER = 1e-5
"""What is read off a hollow tensor: a gradient norm that counts as one, and a difference that no guard objects to."""
FLASH = 1
"""The fused kernel of attention, in the numbering of `_fused_sdp_choice`."""
ATTEND = {
    aten._scaled_dot_product_flash_attention_for_cpu: (0, 1.0),
    aten._scaled_dot_product_flash_attention_for_cpu_backward: (1, 2.5),
}
"""Of attention, where among the arguments the queries stand, and its products in units of the forward pass."""
EMPTY = {aten.empty, aten.empty_like, aten.new_empty, aten.empty_strided, aten._unsafe_view, aten.lift_fresh}
"""Operations that touch no memory."""
TAKE = {aten.embedding, aten.index, aten.gather, aten.index_select}
"""Operations that read as much as they write, however large what they read from is."""


class Hollow(Tensor):
    """A tensor that seems to lie on the CPU, where autocast and attention choose as they do on a GPU."""

    meta: Tensor
    """The tensor on torch's device without memory, which knows shape, strides and storage."""
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, meta: Tensor) -> Hollow:
        """Around a tensor on the device `meta`."""
        make: Any = Tensor._make_wrapper_subclass
        layout = {"strides": meta.stride(), "storage_offset": meta.storage_offset(), "dtype": meta.dtype}
        made: Hollow = make(cls, meta.shape, **layout, device=CPU)
        made.meta = meta
        return made

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if id(self) not in memo:  # tied weights stay tied
            memo[id(self)] = nn.Parameter(self.detach().clone(), self.requires_grad)
        copied: Tensor = memo[id(self)]
        return copied

    def tolist(self) -> list[float]:
        """Of a row of numbers, what is read off each."""
        return [NUMBER] * len(self)

    @classmethod
    def __torch_dispatch__(cls, func: Any, *_: Any) -> Any:
        raise RuntimeError(f"{func}: hollow tensors are computed with inside of a Meter alone")


class Meter(TorchDispatchMode, Ledger):  # type: ignore[no-untyped-call]
    """Counts for a device what runs within; memory is that of hollow tensors alone."""

    def __init__(self, device: Device) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        Ledger.__init__(self)
        self.device = device
        self._makes = False

    @contextmanager
    def makes(self) -> Iterator[None]:
        """Whatever is made within is hollow."""
        self._makes = True
        try:
            yield
        finally:
            self._makes = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        leaves = tree_leaves((args, kwargs))
        hollow = [x for x in leaves if isinstance(x, Hollow)]
        if not hollow and not (self._makes and not any(isinstance(x, Tensor) for x in leaves)):
            return func(*args, **(kwargs or {}))
        if func in READ:
            return READ[func](hollow[0])
        args, kwargs = tree_map(_to_meta, (_without_masks(func, args), kwargs or {}))
        out = func(*args, **(kwargs if hollow else kwargs | {"device": META}))
        known = {id(x.meta): x for x in hollow}  # what is changed in place comes back
        self.follow(func, [x.meta for x in hollow], tree_leaves(out))
        if not _is_free(func):
            self._count(func, args, kwargs, out)

        def hollowed(x: Any) -> Any:
            return known[id(x)] if id(x) in known else Hollow(x) if isinstance(x, Tensor) else x

        return tree_map(hollowed, out)

    def _count(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        packet = func._overloadpacket
        inputs, outputs = ([x for x in tree_leaves(x) if isinstance(x, Tensor)] for x in ((args, kwargs), out))
        if packet in ATTEND:
            place, products = ATTEND[packet]
            flops = products * 4 * args[place].numel() * args[place + 1].shape[-2]
            rate = self.device.attention
        else:
            formula = flop_registry.get(packet)
            flops = formula(*args, **kwargs, out_val=out) if formula else 0
            rate = self.device.single if outputs and outputs[0].dtype == torch.float32 else self.device.half
        size = sum(map(_bytes, outputs)) + sum(map(_bytes, outputs if packet in TAKE else inputs))
        seconds = max(flops / rate, size / self.device.bandwidth)
        self.add(Cost(seconds, flops, size, 1))


READ: dict[Any, Callable[[Tensor], object]] = {
    aten._local_scalar_dense.default: lambda x: NUMBER if x.is_floating_point() else int(x.dtype != torch.bool),
    aten.equal.default: lambda _: False,
    aten._fused_sdp_choice.default: lambda _: FLASH,
}
"""What is answered where a number decides what comes next."""


def _without_masks(func: Any, args: Any) -> Any:
    """The places of a real mask in its stead: how many elements of a hollow tensor it takes must be known."""
    if func is aten.index.Tensor and any(x is not None and x.dtype == torch.bool for x in args[1]):
        (mask,) = args[1]
        return args[0], list(mask.nonzero(as_tuple=True))
    return args


def _to_meta(value: Any) -> Any:
    """Arguments as they are computed with."""
    if isinstance(value, torch.device):
        return META
    if isinstance(value, Hollow):
        return value.meta
    return value.to(META) if isinstance(value, Tensor) else value


def _is_free(func: Any) -> bool:
    """Whether an operation only looks at memory in another way."""
    returns = func._schema.returns
    views = any(r.alias_info is not None and not r.alias_info.is_write for r in returns)
    return views or func._overloadpacket in EMPTY


def _bytes(tensor: Tensor) -> int:
    """Bytes that are read or written; what is expanded is read once."""
    sizes = (size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride)
    return prod(sizes) * tensor.element_size()
