"""The real embedded engine on a pretend GPU without numbers: what a decoded token of a whole batch costs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from support.pretend_gpu.device import COUNTS, pretend_gpu

from gpu_model.kernels import cuda_kernels
from gpu_model.roofline import Roofline
from gpu_model.work import HollowPolicy
from scorl.engines.engine import Request
from scorl.engines.prefix_support import try_shared_prefix
from scorl.engines.torch import TorchEngine
from scorl.estimate.device import GIB, Cost, Device
from scorl.model.policy import Policy
from scorl.settings import ModelSettings

__all__ = ["DecodingCost", "decoding_cost", "shares_prompts"]

FEW = 2
"""Tokens decoded, and then twice as many: the difference is what a token costs."""


@dataclass(frozen=True)
class DecodingCost:
    """A decoded token of all rows."""

    tokens_per_second: float
    milliseconds: float
    launches: float
    syncs: float
    memory: float
    """GiB at the height of a call, weights included."""


@lru_cache
def shares_prompts(dtype: Any) -> bool:
    """Whether samples share their prompt's keys in this type; found on a tiny model, since it wants numbers."""
    return try_shared_prefix(Policy("scorl:countdown-base", dtype=dtype, device="cpu")) is None


def decoding_cost(model: ModelSettings, rows: int, columns: int, samples: int, device: Device) -> DecodingCost:
    """Of so many rows, so many columns long, of as many samples each."""
    shared = shares_prompts(model.dtype)
    roofline = Roofline(device)
    with pretend_gpu(roofline), cuda_kernels():
        engine = TorchEngine(HollowPolicy(model, roofline), batch_size=rows)
        engine._can_share_prompts = lambda: shared
        requests = [Request((1 + i // samples, *range(1, columns)), i) for i in range(rows)]
        engine.sample(requests[:1], temperature=1.0, max_tokens=1)  # what is made once
        found: list[tuple[Cost, int, float]] = []
        for tokens in (FEW, 2 * FEW):
            COUNTS.reset()
            with roofline.phase() as phase:
                engine.sample(requests, temperature=1.0, max_tokens=tokens)
            found.append((phase.cost, COUNTS.syncs.total(), sum(phase.peak().values())))
    (few, few_syncs, _), (more, more_syncs, height) = found
    token = more - few
    seconds = device.seconds(token) / FEW
    return DecodingCost(
        tokens_per_second=rows / seconds,
        milliseconds=1e3 * seconds,
        launches=token.calls / FEW,
        syncs=(more_syncs - few_syncs) / FEW,
        memory=height / GIB,
    )
