"""How fast this CPU multiplies matrices, measured: a processor's name does not tell."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from scorl.model.onednn import has_onednn, matmul_onednn

__all__ = ["CpuRates", "cpu_rates", "least_seconds", "process_clock"]

INPUTS, OUTPUTS = 576, 1536
"""Of the layer that is tried: SmolLM2's widest."""
ROWS = (16, 256)
"""Rows of decoding and of learning; both get as many operations."""
ROUNDS = 5
SECONDS = 0.05
"""After which a way that is slow gets no more rounds."""
ONEDNN_MARGIN, BFLOAT16_MARGIN = 1.3, 1.5
"""How many times as fast something must be to be chosen: by far more than measurements differ by, so that runs on one
machine choose alike. Measured on processors of AMD: oneDNN's 1.1 or 2.2, bfloat16's 0.9 or 2.0."""


@dataclass(frozen=True)
class CpuRates:
    """Operations a second of products of a few and of many rows, taken together."""

    mkl: float
    """In float32, as torch multiplies by itself."""
    onednn: float
    """In float32 by oneDNN; 0 where torch was built without."""
    bfloat16: float

    @property
    def float32(self) -> float:
        """The better of the two."""
        return max(self.mkl, self.onednn)

    @property
    def onednn_pays(self) -> bool:
        """Whether oneDNN is clearly the faster in float32."""
        return self.onednn >= ONEDNN_MARGIN * self.mkl

    @property
    def bfloat16_pays(self) -> bool:
        """Whether bfloat16 is clearly faster than float32."""
        return self.bfloat16 >= BFLOAT16_MARGIN * self.float32

    def __str__(self) -> str:
        mkl, onednn, half = (f"{rate / 1e9:.0f}" for rate in (self.mkl, self.onednn, self.bfloat16))
        return f"{mkl} GFLOP/s in float32, {onednn} by oneDNN, {half} in bfloat16"


@cache
def cpu_rates() -> CpuRates:
    """What this process reaches with the threads that it has; a tenth of a second, once."""
    with torch.inference_mode():
        inputs = [torch.randn(rows, INPUTS) for rows in ROWS]
        weight = torch.randn(OUTPUTS, INPUTS)
        return CpuRates(
            mkl=_rate(F.linear, inputs, weight),
            onednn=_rate(matmul_onednn, inputs, weight) if has_onednn() else 0.0,
            bfloat16=_rate(F.linear, [x.bfloat16() for x in inputs], weight.bfloat16()),
        )


def process_clock() -> float:
    """Seconds: of this process with one thread, so that others at work count little; else of the wall."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def least_seconds(
    act: Callable[[], object],
    rounds: int,
    limit: float = float("inf"),
    clock: Callable[[], float] = process_clock,
) -> float:
    """The least seconds of an act over some rounds, behind one that warms up; fewer once they took the limit."""
    act()
    seconds: list[float] = []
    while len(seconds) < rounds and sum(seconds) < limit:
        began = clock()
        act()
        seconds.append(clock() - began)
    return min(seconds)


def _rate(multiply: Callable[[Tensor, Tensor], Tensor], inputs: list[Tensor], weight: Tensor) -> float:
    """Operations a second of products, of which each number of rows gets half."""

    def multiply_all() -> None:
        for x in inputs:
            for _ in range(ROWS[-1] // len(x)):
                multiply(x, weight)

    return 2 * len(ROWS) * ROWS[-1] * weight.numel() / least_seconds(multiply_all, ROUNDS, SECONDS)
