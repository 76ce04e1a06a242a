"""vLLM's decoding by a roofline: none of its kernels run on hollow tensors, so its steps are counted by hand."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from scorl.estimate.device import GIB, Cost, Device
from scorl.estimate.ledger import Phase
from scorl.estimate.trace import Decoding
from scorl.estimate.workload import Sampled, Workload
from scorl.settings import VllmSettings

__all__ = ["ASLEEP", "SERVER", "Served"]

SERVER, ASLEEP = 2 * GIB, 1 * GIB
"""What vLLM takes beside weights, keys and values, and what it keeps while it sleeps (assumed)."""
PREFILL_TOKENS = 8192
"""Of prompts in one step: vLLM's own default on large GPUs."""
TURNAROUND = 5e-3
"""Seconds of a step that are no kernel of the model: scheduling, drawing, answering (assumed: 256 rows of a 1.5B model
then come to 30,000 tokens a second on an H100)."""


@dataclass(frozen=True)
class Served:
    """A model in vLLM's server, on one device or several together."""

    config: Any
    """The model's Hugging Face configuration."""
    parameters: int
    size: int
    """Bytes of a number."""
    settings: VllmSettings
    device: Device

    @property
    def share(self) -> float:
        """Bytes of the device that vLLM takes; 0 on a CPU, where it knows no share."""
        return self.settings.gpu_memory_utilization * self.device.memory if self.device.is_gpu else 0.0

    @property
    def weights(self) -> float:
        """Bytes on each device."""
        return self.size * self.parameters / self.devices

    @property
    def devices(self) -> int:
        """That hold the model together."""
        return self.settings.tensor_parallel_size if self.device.is_gpu else 1

    def row(self, tokens: float) -> float:
        """Bytes of the keys and values of a row, on each device; sliding windows are not made use of."""
        config = self.config.get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        numbers = 2 * config.num_hidden_layers * heads * width
        return float(self.size * numbers * tokens / self.devices)

    def rows(self, work: Workload) -> float:
        """How many of the longest rows the share has room for at once."""
        if not self.share:
            return float("inf")
        return max(0.0, self.share - self.weights - SERVER) / self.row(work.longest)

    def decoding(self, work: Workload) -> tuple[Decoding, ...]:
        """Each call of the engine in a step; the memory is the share, whatever is decoded."""
        return tuple(self._call(call, work) for call in work.calls)

    def _call(self, call: Sampled, work: Workload) -> Decoding:
        asked = round(work.scale * call.rows)
        rows = max(1, int(min(asked, self.settings.batch_size, self.rows(work))))
        prompts = work.scale * call.prompts
        at_once = max(1.0, min(prompts, PREFILL_TOKENS / call.fresh))
        return Decoding(
            memory=Phase(Counter()),
            prefill=self._pass(call.fresh, call.prompt - call.fresh, at_once),
            prefills=prompts / at_once,
            step=self._pass(1, call.prompt + call.response / 2, rows),
            steps=asked / rows * call.response,
            tail=self._pass(1, call.prompt + call.longest, rows=1),
            tails=call.longest - call.response,
        )

    def _pass(self, tokens: float, before: float, rows: float) -> Cost:
        """So many new tokens of each row behind others: all weights are read once, and the row's keys and values."""
        flops = 2.0 * self.parameters * tokens * rows / self.devices
        read = self.weights + rows * self.row(before + tokens)
        rate = self.device.half if self.size < 4 else self.device.single
        return Cost(max(flops / rate, read / self.device.bandwidth) + TURNAROUND, flops, read)
