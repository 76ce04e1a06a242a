"""A pretend GPU: tensors that say they are on cuda:0, compute on the CPU, and refuse what CUDA refuses.

Import it behind `guard.load_guard`. Limits: there are no streams, `torch.inference_mode` is `no_grad` (tensors without
a version counter cannot be wrapped), and what reads a tensor's memory by its address finds none.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

__all__ = ["COUNTS", "GPU", "Compute", "Counts", "MixedDevicesError", "OnGpu", "pretend_gpu", "replace_leaves"]

GPU = torch.device("cuda", 0)

Compute = Callable[[Any, Any, dict[str, Any], bool], Any]
"""Is given an operation, its arguments, and whether its result stays on the GPU; returns tensors as they are inside."""

READS = {"_local_scalar_dense", "is_nonzero", "equal"}
"""Operations whose result is a Python number."""
WAITS = READS | {"nonzero", "_unique2", "unique_dim", "unique_consecutive", "bincount", "masked_select", "histc"}
"""Operations whose result's value or shape the host must know before it goes on."""
CROSSES = {"_to_copy", "copy_", "copy"}
"""Operations that may take tensors of two devices."""
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}


class MixedDevicesError(RuntimeError):
    """Tensors of the CPU and of the GPU in one operation."""


@dataclass
class Counts:
    """What happened since the last `reset`, with the line of scorl that asked for it."""

    syncs: Counter[str] = field(default_factory=Counter)
    """The host waited for the GPU."""
    uploads: Counter[str] = field(default_factory=Counter)
    """Copies from the host to the GPU."""
    launches: Counter[str] = field(default_factory=Counter)
    """By operation."""
    casts: Counter[tuple[int, ...]] = field(default_factory=Counter)
    """Conversions of a parameter to another type, by its shape."""

    def reset(self) -> None:
        """Forget all."""
        for counter in vars(self).values():
            counter.clear()


COUNTS = Counts()


def _place() -> str:
    """The innermost line of scorl on the stack."""
    frame = sys._getframe(2)
    while frame is not None:
        if "/scorl/" in frame.f_code.co_filename:
            return f"{frame.f_code.co_filename.rpartition('/scorl/')[2]}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return "outside of scorl"


class OnGpu(Tensor):
    """A tensor of the pretend GPU around one of the CPU."""

    inner: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: Tensor, requires_grad: bool = False) -> OnGpu:
        layout = {"strides": inner.stride(), "storage_offset": inner.storage_offset(), "dtype": inner.dtype}
        made = Tensor._make_wrapper_subclass(cls, inner.shape, **layout, device=GPU, requires_grad=requires_grad)
        made.inner = inner
        return made

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["inner"], None  # by which `Module.to` knows that parameters must be exchanged, not their storage

    @staticmethod
    def __tensor_unflatten__(parts: dict[str, Tensor], *_: Any) -> OnGpu:
        return OnGpu(parts["inner"])

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if id(self) not in memo:  # tied weights stay tied
            copied = self.detach().clone()
            memo[id(self)] = nn.Parameter(copied, self.requires_grad) if isinstance(self, nn.Parameter) else copied
        made: Tensor = memo[id(self)]
        return made

    @property
    def data(self) -> Tensor:
        with torch._C.DisableTorchFunctionSubclass():
            return self.detach()

    @data.setter
    def data(self, value: Tensor) -> None:
        if not isinstance(value, OnGpu):
            raise MixedDevicesError(f"the storage of a parameter on the GPU is set to a CPU tensor at {_place()}")
        assert value.shape == self.shape
        self.inner = value.inner

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")

    def data_ptr(self) -> int:
        return 0

    def __repr__(self) -> str:
        return f"OnGpu({tuple(self.shape)}, {self.dtype})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """An operation on the CPU, with the devices of arguments and results checked and counted."""
    name = func._schema.name.split("::")[1]
    tensors = list(_tensors((args, tuple(kwargs.values()))))
    gpu = [x for x in tensors if isinstance(x, OnGpu)]
    wanted = torch.device(kwargs["device"]) if kwargs.get("device") is not None else None
    to_gpu = wanted is not None and wanted.type == "cuda"
    if gpu:
        _check(func, name, args, tensors)
        _count(name, args, kwargs, wanted)
    elif name == "_to_copy" and to_gpu:
        COUNTS.uploads[_place()] += 1
    stays = to_gpu if wanted is not None else bool(gpu)
    if name == "copy_":
        stays = isinstance(args[0], OnGpu)
    stays &= name not in READS
    out = _compute[-1](func, args, kwargs, stays)
    if not stays:
        return out
    out = replace_leaves(out, _outer)
    if gpu and any(result.alias_info is not None for result in func._schema.returns):
        return return_and_correct_aliasing(func, args, kwargs, out)
    return out


def on_cpu(func: Any, args: Any, kwargs: dict[str, Any], stays: bool) -> Any:
    """Compute an operation of the GPU for what it is."""
    inner = {key: replace_leaves(x, _inner) for key, x in kwargs.items()}
    if inner.get("device") is not None:
        inner["device"] = torch.device("cpu")
    if func is torch.ops.aten.mm.dtype:  # a product that sums in another type, which CUDA alone has
        return torch.mm(*(_inner(x).to(args[2]) for x in args[:2]))
    return func(*replace_leaves(args, _inner), **inner)


_compute: list[Compute] = [on_cpu]
"""The last one is asked."""


def _tensors(values: Any) -> Iterator[Tensor]:
    """The tensors in nested lists and tuples; torch's pytree would take most of the time."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


def replace_leaves(value: Any, replace: Callable[[Any], Any]) -> Any:
    """The same with every leaf replaced."""
    if type(value) in (list, tuple):
        return type(value)([replace_leaves(x, replace) for x in value])
    return replace(value)


def _inner(value: Any) -> Any:
    return value.inner if isinstance(value, OnGpu) else value


def _outer(value: Any) -> Any:
    return OnGpu(value) if isinstance(value, Tensor) and not isinstance(value, OnGpu) else value


def _check(func: Any, name: str, args: Any, tensors: list[Tensor]) -> None:
    """Refuse mixed devices as CUDA does: numbers of no dimension may lie on the CPU, and indices, which are copied."""
    if name in CROSSES:
        return
    wrong = [x for x in tensors if not isinstance(x, OnGpu) and x.dim()]
    if wrong and name in INDEXING and isinstance(args[0], OnGpu):
        COUNTS.uploads[_place()] += 1
        wrong = [x for x in wrong if not any(x is index for index in args[1])]
    if wrong:
        shapes = [tuple(x.shape) for x in wrong]
        raise MixedDevicesError(f"{func} got tensors of the GPU and of the CPU, {shapes}, at {_place()}")


def _count(name: str, args: Any, kwargs: Any, wanted: torch.device | None) -> None:
    COUNTS.launches[name] += 1
    waits = name in WAITS or (name == "repeat_interleave" and kwargs.get("output_size") is None)
    if name in INDEXING:
        waits = any(index is not None and index.dtype == torch.bool for index in args[1])
    waits |= name == "_to_copy" and wanted is not None and wanted.type == "cpu"
    waits |= name == "copy_" and not isinstance(args[0], OnGpu)
    if waits:
        COUNTS.syncs[f"{name} at {_place()}"] += 1
    if name == "_to_copy" and kwargs.get("dtype") not in (None, args[0].dtype) and args[0].dim() == 2:
        COUNTS.casts[tuple(args[0].shape)] += 1


class _Made(TorchDispatchMode):
    """Sees operations without a tensor of the GPU among their arguments: what is made on it or copied to it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Named(TorchFunctionMode):
    """Calls that name a device: `cuda` is `cuda:0`, which only a build with CUDA knows by itself."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.device:
            return func(*args, **(kwargs or {}))
        args = tuple(map(_with_index, args))
        kwargs = {key: _with_index(x) for key, x in (kwargs or {}).items()}
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") == GPU:
            return func(*args, **(kwargs | {"device": "cpu"})).to(GPU)
        return func(*args, **kwargs)


def _with_index(value: Any) -> Any:
    cuda = value == "cuda" if isinstance(value, str) else isinstance(value, torch.device) and value.type == "cuda"
    return GPU if cuda else value


@contextmanager
def pretend_gpu(compute: Compute = on_cpu) -> Iterator[Counts]:
    """Within, torch has a GPU; it stays a pretended one afterwards, so the process is good for nothing else."""
    torch.inference_mode = torch.no_grad  # type: ignore[misc, assignment]
    nothing = {"manual_seed_all", "set_rng_state", "_lazy_init", "empty_cache", "ipc_collect", "synchronize"}
    for name in nothing:
        setattr(torch.cuda, name, lambda *_, **__: None)
    answers = {"is_available": True, "is_initialized": True, "is_bf16_supported": True, "device_count": 1}
    answers |= {"current_device": 0, "get_device_name": "pretended", "get_device_capability": (9, 0)}
    for name, answer in answers.items():
        setattr(torch.cuda, name, lambda *_, answer=answer, **__: answer)
    torch.cuda.get_rng_state = lambda *_: torch.zeros(16, dtype=torch.uint8)
    torch._C._ensureCUDADeviceGuardSet()
    torch.autograd.set_multithreading_enabled(False)
    _compute.append(compute)
    try:
        with _Named(), _Made():
            yield COUNTS
    finally:
        _compute.pop()
