"""The real learner's update on a pretend GPU without numbers: two of its micro-batches are run, the others inferred."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from support.pretend_gpu.device import COUNTS, pretend_gpu
from torch import Tensor

from gpu_model.kernels import cuda_kernels
from gpu_model.roofline import Roofline
from gpu_model.work import HollowPolicy
from scorl.distributed.ranks import ALONE
from scorl.estimate.device import Cost, Device
from scorl.estimate.ledger import Phase
from scorl.learner import Learner
from scorl.learner.head import Head
from scorl.learner.parallel import DDP
from scorl.model.reference import Reference
from scorl.settings import LearnerSettings, ModelSettings
from scorl.trajectory import TrainingExample

__all__ = ["LearnerCost", "learner_cost"]


@dataclass(frozen=True)
class MicroBatchCost:
    """What one micro-batch came to."""

    tokens: int
    seconds: float
    launches: int
    head_casts: int
    syncs: int
    kinds: Mapping[str, float]
    """Seconds by operation."""


@dataclass(frozen=True)
class LearnerCost:
    """An update on one device, of which moments and gradients are there before."""

    seconds: float
    """Of the device: kernels, or their launches where those take longer."""
    launches: float
    head_casts: float
    """Conversions of a whole output head to another type."""
    syncs: float
    memory: Phase
    micro_batches: int
    host_bytes: float
    """Of the micro-batches of a step, laid out on the host."""
    gathered: int
    """Numbers in two layers and in what stands outside of all layers: what FSDP2 holds whole at once."""
    largest: MicroBatchCost


class _FewBatches(DDP):
    """Runs the largest and the smallest of a step's micro-batches, or the largest alone."""

    complete = False

    def __init__(self, policy: HollowPolicy, roofline: Roofline, largest_alone: bool) -> None:
        super().__init__(policy, ALONE)
        self.roofline, self.largest_alone = roofline, largest_alone
        self.sizes: list[int] = []
        self.ran: list[MicroBatchCost] = []
        self.cost = Cost()
        self.host_bytes = 0

    def accumulate_gradients(
        self, batches: Sequence[Any], backward: Callable[..., None], dummy: Any, head: Head
    ) -> None:
        """See `ParallelStrategy`."""
        with self.roofline.label("gradients"):
            for p in self.policy.parameters.values():
                p.grad = torch.zeros_like(p)
        ordered = sorted(batches, key=_size)
        self.sizes, self.host_bytes = list(map(_size, ordered)), sum(map(_bytes, batches))
        chosen = ordered[-1:] if self.largest_alone or len(ordered) == 1 else [*ordered[:1], *ordered[-1:]]
        with self.roofline.phase() as phase:
            self.ran = [self._run(batch, backward) for batch in chosen]
        self.cost = phase.cost

    def _run(self, batch: Any, backward: Callable[..., None]) -> MicroBatchCost:
        COUNTS.reset()
        self.roofline.kinds.clear()
        head = tuple(self.policy.decoder.get_output_embeddings().weight.shape)
        with self.roofline.phase() as phase:
            backward(batch, batch.needs_reference)
        seconds, kinds = self.roofline.device.seconds(phase.cost), dict(self.roofline.kinds)
        return MicroBatchCost(_size(batch), seconds, phase.cost.calls, COUNTS.casts[head], COUNTS.syncs.total(), kinds)


def learner_cost(
    model: ModelSettings,
    settings: LearnerSettings,
    examples: Sequence[TrainingExample],
    device: Device,
    scale: float = 1.0,
    largest_alone: bool = False,
    sharded: bool = False,
) -> LearnerCost:
    """What an update costs.

    Args:
        model: by a name whose shapes `scorl.estimate` knows.
        settings: of the learner.
        examples: of a step, or so many that they stand for it.
        device: whose rates count.
        scale: how often the examples stand in the step.
        largest_alone: enough for the memory; the costs are then those of that micro-batch for all.
        sharded: whether weights are going to be divided.
    """
    roofline = Roofline(device)
    with pretend_gpu(roofline), cuda_kernels():
        policy = HollowPolicy(model, roofline)
        with roofline.label("reference"):
            learner = Learner(policy, settings, total=2)
            if sharded:
                learner.reference = Reference(policy, sharded=True)
                learner.reference.seal()
        learner.strategy = ran = _FewBatches(policy, roofline, largest_alone)
        learner.packing = settings.packing
        with roofline.label("optimiser"):
            learner.update([])  # moments come into being
        COUNTS.reset()
        with roofline.phase() as step:
            learner.update(examples)
    first, last = ran.ran[0], ran.ran[-1]

    def summed(read: Callable[[MicroBatchCost], float]) -> float:
        """Over all micro-batches, by the line through those that were run."""
        slope = (read(last) - read(first)) / (last.tokens - first.tokens) if last.tokens > first.tokens else 0.0
        return scale * sum(read(last) + slope * (size - last.tokens) for size in ran.sizes)

    once = step.cost - ran.cost
    sizes = [p.numel() for p in policy.decoder.parameters()]
    layers = [sum(p.numel() for p in layer.parameters()) for layer in policy.decoder.base_model.layers]
    return LearnerCost(
        seconds=summed(lambda batch: batch.seconds) + device.seconds(once),
        launches=summed(lambda batch: batch.launches) + once.calls,
        head_casts=summed(lambda batch: batch.head_casts),
        syncs=summed(lambda batch: batch.syncs),
        memory=step,
        micro_batches=round(scale * len(ran.sizes)),
        host_bytes=scale * ran.host_bytes,
        gathered=sum(sizes) - sum(layers) + 2 * max(layers),
        largest=last,
    )


def _size(batch: Any) -> int:
    return int(batch.layout.ids.numel())


def _bytes(value: Any) -> int:
    """Of all tensors in nested dataclasses and tuples."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, tuple):
        return sum(map(_bytes, value))
    if is_dataclass(value):
        return sum(_bytes(getattr(value, field.name)) for field in fields(value))
    return 0
