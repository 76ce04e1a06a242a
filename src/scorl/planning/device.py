"""Devices: what their data sheets say, and what is taken to be reached of it.

The figures are those of NVIDIA's data sheets, dense (without sparsity): A100 SXM, H100 and H200 SXM, L4, and the Ada
architecture's white paper for the RTX 4090 (half precision with sums in float32). `float32` is outside the tensor
cores, as PyTorch computes it by default. Memory is what the driver reports. No price is listed, for prices change.
"""

from __future__ import annotations

from dataclasses import dataclass

from scorl.settings import Dtype

__all__ = ["DEVICES", "EFFICIENCY", "Device", "Rates", "Reach"]

GIB = 2**30
NODE = 8
"""Devices of one machine, joined by `link`; more of them talk over `network`."""


@dataclass(frozen=True)
class Reach:
    """What is reached on tensors of some size, a second."""

    flops: float
    """Operations of matrices."""
    attention: float
    """Operations of attention."""
    bandwidth: float
    """Bytes that element-wise operations, or the reading of weights, move."""


@dataclass(frozen=True)
class Rates:
    """What a device reaches, and what calls cost in which nothing is computed: Python and dispatch."""

    many: Reach
    """On the tokens of a micro-batch."""
    few: Reach
    """On the rows of one decoded step."""
    decode_call: float = 0.0
    """Seconds of a decoded step without its layers."""
    decode_layer: float = 0.0
    """Seconds of one of its layers."""
    response: float = 0.0
    """Seconds of a response around the engine: its seeds, its prompt, its text."""
    learn_call: float = 0.0
    """Seconds of a micro-batch's update without its layers."""
    learn_layer: float = 0.0
    """Seconds of one of its layers: the policy forward and backward, and the reference."""


@dataclass(frozen=True)
class Device:
    """A device by its data sheet."""

    name: str
    memory: float
    """Bytes."""
    bandwidth: float
    """Bytes a second to and from its memory."""
    half: float
    """Matrix operations a second in bfloat16 or float16."""
    single: float
    """Matrix operations a second in float32."""
    link: float
    """Bytes a second, one way, to the other devices of a machine."""
    network: float
    """Bytes a second, one way, to other machines, for each device."""
    runtime: float = 1 * GIB
    """Bytes that driver, libraries and kernels take (assumed; on a CPU the process as it was measured)."""
    measured: Rates | None = None
    """What was measured; None: data sheet times the efficiencies."""

    def rates(self, dtype: Dtype, efficiency: float) -> Rates:
        """What is taken to be reached: what was measured, or `efficiency` of the data sheet's operations."""
        if self.measured:
            return self.measured
        flops = efficiency * (self.single if dtype == "float32" else self.half)
        reach = Reach(flops, flops, BANDWIDTH_SHARE * self.bandwidth)
        return Rates(reach, reach, **EAGER)

    def between(self, count: int) -> float:
        """Bytes a second, one way, between `count` of them."""
        return self.link if count <= NODE else min(self.link, self.network)

    def usable(self) -> float:
        """Bytes that can be filled before fragments get in the way."""
        return USABLE * self.memory


EFFICIENCY = 0.4
"""Share of the data sheet's operations that learning reaches (assumed; Llama 3 was trained at 0.38 to 0.43 on H100s,
arXiv 2407.21783, table 4)."""
BANDWIDTH_SHARE = 0.6
"""Share of the data sheet's bandwidth that is reached (assumed)."""
USABLE = 0.95
"""Share of the memory that is filled at most (assumed)."""
EAGER = {"decode_call": 1e-3, "decode_layer": 0.5e-3, "response": 0.1e-3, "learn_call": 5e-3, "learn_layer": 2e-3}
"""Seconds that Python and PyTorch's dispatch take on the host of a GPU: those that `scorl doctor` measured on
the CPU of docs/plan.md, rounded up."""


def _gpu(name: str, gib: float, bandwidth: float, half: float, single: float, link: float, network: float) -> Device:
    """GiB, GB/s, TFLOP/s, GB/s one way."""
    return Device(name, gib * GIB, bandwidth * 1e9, half * 1e12, single * 1e12, link * 1e9, network * 1e9)


DEVICES = {
    device.name: device
    for device in (
        _gpu("a100-40", 40, 1555, 312, 19.5, 300, 25),
        _gpu("a100-80", 80, 2039, 312, 19.5, 300, 25),
        _gpu("h100", 79.6, 3350, 989, 67, 450, 50),
        _gpu("h200", 140.4, 4800, 989, 67, 450, 50),
        _gpu("l4", 22.5, 300, 121, 30.3, 32, 12.5),
        _gpu("4090", 24, 1008, 165.2, 82.6, 32, 12.5),
    )
}
"""`link` is NVLink or PCIe; `network` is InfiniBand of NVIDIA's own machines (DGX), or 100 Gb Ethernet."""
