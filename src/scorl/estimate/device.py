"""Devices: what NVIDIA's data sheets say and how much of it is taken to be reached; what this machine reaches.

The sheets' figures are dense (without sparsity): A100, H100 and H200 SXM, L4, and the Ada white paper for the RTX 4090
(half precision, sums in float32). `float32` is outside the tensor cores, as PyTorch computes it by default.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

__all__ = ["DEVICES", "Cost", "Device", "bandwidth", "matmul_rate", "this_machine"]

GIB = 2**30
MATMUL, ATTENTION, BANDWIDTH = 0.7, 0.2, 0.85
"""Shares of the sheet that products, attention and bytes reach: 0.73, 0.19 with its backward pass, and 0.87 on one
H100 (docs/speed.md); assumed of the others, +-25%."""
NODE = 8
"""Devices of one machine, joined by `link`; more of them talk over `network`."""


@dataclass
class Cost:
    """What operations come to."""

    seconds: float = 0.0
    """By the roofline: each takes as long as its operations or its bytes, whichever is longer."""
    flops: float = 0.0
    bytes: float = 0.0
    calls: int = 0

    def add(self, other: Cost) -> None:
        """Add another's to these."""
        self.seconds, self.flops = self.seconds + other.seconds, self.flops + other.flops
        self.bytes, self.calls = self.bytes + other.bytes, self.calls + other.calls

    def __sub__(self, other: Cost) -> Cost:
        return Cost(*(getattr(self, name) - getattr(other, name) for name in ("seconds", "flops", "bytes", "calls")))


@dataclass(frozen=True)
class Device:
    """What a device holds and reaches: bytes, operations a second, bytes a second."""

    name: str
    memory: float
    half: float
    """Matrix operations a second in bfloat16 or float16."""
    single: float
    """The same in float32."""
    attention: float
    bandwidth: float
    link: float = 0.0
    """Bytes a second, one way, to the other devices of a machine."""
    network: float = 0.0
    """The same to other machines."""
    dispatch: float = 1.6e-5
    """Seconds that Python, transformers and PyTorch take to issue an operation: 17 microseconds a kernel in the engine
    `torch` beside an H100."""
    is_gpu: bool = True
    runtime: float = 1 * GIB
    """Bytes that the process takes without a tensor: driver, libraries, kernels (assumed for GPUs)."""

    def seconds(self, cost: Cost, *, recorded: bool = False) -> float:
        """How long operations take; a GPU computes while the next ones are issued, or replays `recorded` ones."""
        issued = 0.0 if recorded else cost.calls * self.dispatch
        return max(cost.seconds, issued) if self.is_gpu else cost.seconds + issued

    def between(self, count: int) -> float:
        """Bytes a second, one way, between `count` of them."""
        return self.link if count <= NODE else min(self.link, self.network)

    @property
    def usable(self) -> float:
        """Bytes for tensors: fragments waste a twentieth (assumed), and the runtime is there already."""
        return 0.95 * self.memory - self.runtime


def _gpu(name: str, gib: float, sheet: tuple[float, float, float], link: float, network: float) -> Device:
    """GiB; TFLOP/s in half precision and float32, GB/s of memory; GB/s one way of link and network."""
    half, single, memory = sheet
    rates = (MATMUL * half * 1e12, MATMUL * single * 1e12, ATTENTION * half * 1e12, BANDWIDTH * memory * 1e9)
    return Device(name, gib * GIB, *rates, link * 1e9, network * 1e9)


DEVICES = {
    device.name: device
    for device in (
        _gpu("a100-40", 40, (312, 19.5, 1555), 300, 25),
        _gpu("a100-80", 80, (312, 19.5, 2039), 300, 25),
        _gpu("h100", 79.6, (989, 67, 3350), 450, 50),
        _gpu("h200", 140.4, (989, 67, 4800), 450, 50),
        _gpu("l4", 22.5, (121, 30.3, 300), 32, 12.5),
        _gpu("4090", 24, (165.2, 82.6, 1008), 32, 12.5),
    )
}
"""`link` is NVLink or PCIe; `network` is InfiniBand of NVIDIA's own machines (DGX), or 100 Gb Ethernet."""


def this_machine() -> Device:
    """The GPU that torch sees here, or this CPU, with measured rates."""
    import torch

    if torch.cuda.is_available():
        seen = torch.cuda.get_device_properties(0)
        half, single = (matmul_rate(4096, 4096, dtype, "cuda") for dtype in ("bfloat16", "float32"))
        return Device(seen.name, seen.total_memory, half, single, half / 3, bandwidth(2**27, "cuda"))
    name = f"this CPU, {torch.get_num_threads()} threads"
    memory = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    single = matmul_rate()
    half = matmul_rate(dtype="bfloat16")
    return Device(name, memory, half, single, single / 2, bandwidth(), dispatch=1.5e-5, is_gpu=False, runtime=GIB / 2)


def matmul_rate(tokens: int = 2048, width: int = 1024, dtype: str = "float32", device: str = "cpu") -> float:
    """Operations a second of a square linear layer on so many tokens at once, in what is the faster here."""
    import torch
    from torch.nn import functional

    from scorl.model.onednn import has_onednn, onednn_linear

    x, weight = torch.randn(tokens, width), torch.randn(width, width)
    x, weight = (tensor.to(device, getattr(torch, dtype)) for tensor in (x, weight))
    ways = [functional.linear, *([onednn_linear] if device == "cpu" and dtype == "float32" and has_onednn() else [])]
    with torch.inference_mode():
        return 2 * x.numel() * width / min(_least(partial(by, x, weight), device) for by in ways)


def bandwidth(numbers: int = 2**24, device: str = "cpu") -> float:
    """Bytes a second that element-wise operations read and write, their results in new memory as in learning."""
    import torch

    x = torch.randn(numbers, device=device)
    return 2 * 4 * numbers / _least(lambda: x * 2.0, device)


def _least(act: Callable[[], object], device: str, rounds: int = 7) -> float:
    """The least seconds of an act over some rounds, behind one that warms up."""
    import torch

    from scorl.model.rates import least_seconds, process_clock

    def act_and_wait() -> None:
        act()
        if device != "cpu":
            torch.cuda.synchronize()

    return least_seconds(act_and_wait, rounds, clock=process_clock if device == "cpu" else time.perf_counter)
