"""The real learner and the real decode step on hollow tensors: what a step of a stage costs, and what lives meanwhile.

Of a step's micro-batches the largest is run, and the others are taken to cost as much by token. Of the steps that
decode a response two are run, in the middle and at the end.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from scorl.distributed.ranks import ALONE
from scorl.engines.kv_cache import CachedRows, concatenate_rows
from scorl.engines.sampling import sample_tokens
from scorl.engines.torch import PREFILL_TOKENS
from scorl.estimate.device import Cost, Device
from scorl.estimate.kernels import gpu_kernels
from scorl.estimate.ledger import Phase
from scorl.estimate.meter import Hollow, Meter
from scorl.estimate.model import FakePolicy
from scorl.estimate.workload import Sampled, Workload
from scorl.learner import Learner
from scorl.learner.batch import MicroBatches
from scorl.learner.head import Head
from scorl.learner.parallel import DDP, Backward
from scorl.learner.tree import Tree
from scorl.model.head import backbone
from scorl.model.logprobs import log_probabilities
from scorl.model.reference import Reference
from scorl.recipe import Recipe

__all__ = ["Decoding", "Learning", "trace_decoding", "trace_learning"]


@dataclass(frozen=True)
class Learning:
    """The learner's part of a step."""

    parameters: int
    trained: int
    gathered: int
    """Numbers in two layers and in what stands outside of all layers: what FSDP2 holds whole at once."""
    memory: Phase
    """The largest micro-batch, and the optimiser's step behind it."""
    first: Phase
    """The optimiser's first step, in which moments come into being and the weights are seen to move."""
    batch: Cost
    """Of that micro-batch."""
    once: Cost
    """Of what a step does once: clipping, the optimiser."""
    tokens: float
    """Distinct ones of the step."""
    micro_batches: float
    share: float
    """Tokens of the step over those of the micro-batch."""


@dataclass(frozen=True)
class Decoding:
    """One call of the engine."""

    memory: Phase
    prefill: Cost
    prefills: float
    """How often so much is prefilled."""
    step: Cost
    """Of a decoded step of all rows, in the middle of a response."""
    steps: float
    tail: Cost
    """Of a decoded step of one row."""
    tails: float
    """Steps in which few rows are left."""


def trace_learning(recipe: Recipe, config: Any, work: Workload, device: Device) -> Learning:
    """Run the learner on hollow tensors, from the examples of a step."""
    meter = Meter(device)
    policy = _policy(recipe, config, meter)
    with meter, meter.label("reference"):
        settings = replace(recipe.learner, use_liger_kernel=False)  # what would be fused is counted as if it were not
        learner = Learner(policy, settings, total=recipe.steps, temperature=recipe.engine.temperature)
        if recipe.launcher.parallel == "fsdp2" and (recipe.launcher.workers or 1) > 1:  # as what is to be divided
            learner.reference = Reference(policy, sharded=True)
            learner.reference.seal()
    learner.strategy = ran = _LargestAlone(policy, meter)
    with meter, meter.phase() as first, meter.label("optimiser"):
        learner.update([])
    with meter, meter.phase() as memory, gpu_kernels() if device.is_gpu else nullcontext():
        learner.update(work.examples, "none")
    sizes = [p.numel() for p in policy.decoder.parameters()]
    layers = [sum(p.numel() for p in layer.parameters()) for layer in _layers(policy.decoder)]
    return Learning(
        parameters=sum(sizes),
        trained=sum(p.numel() for p in policy.parameters.values()),
        gathered=sum(sizes) - sum(layers) + 2 * max(layers),
        memory=memory,
        first=first,
        batch=ran.cost,
        once=memory.cost - ran.cost,
        tokens=work.scale * sum(ran.sizes),
        micro_batches=work.scale * len(ran.sizes),
        share=work.scale * sum(ran.sizes) / max(ran.sizes),
    )


def trace_decoding(recipe: Recipe, config: Any, work: Workload, device: Device) -> tuple[Decoding, ...]:
    """Run decoded steps of each of a step's calls of the engine on hollow tensors."""
    sampler = _Sampler(recipe, config, device)
    with sampler.meter, torch.no_grad(), sampler.policy.precision():
        sampler.extended(1, 1)  # autocast's copies come into being
        tail = sampler.step(sampler.extended(1, work.longest))
        return tuple(sampler.decoding(call, work.scale, tail, call is work.calls[-1]) for call in work.calls)


def _policy(recipe: Recipe, config: Any, meter: Meter) -> FakePolicy:
    with meter, meter.label("weights"), meter.makes():
        return FakePolicy(recipe.model, config)


def _layers(decoder: Any) -> nn.ModuleList:
    """A model's layers, by whatever name: the list of modules with most weights."""
    lists = [module for module in backbone(decoder).modules() if isinstance(module, nn.ModuleList)]
    return max(lists, key=lambda modules: sum(p.numel() for p in modules.parameters()))


class _LargestAlone(DDP):
    """Weights whole on one device, which learns from the largest of its micro-batches, the layout of it hollow."""

    complete = False

    def __init__(self, policy: FakePolicy, meter: Meter) -> None:
        super().__init__(policy, ALONE)
        self.meter = meter
        self.sizes: list[int] = []
        self.cost = Cost()

    def accumulate_gradients(self, batches: MicroBatches, backward: Backward, dummy: Any, head: Head) -> None:
        """See `ParallelStrategy`; where there are several micro-batches, the gradients of others are there before."""
        self.sizes = [batch.layout.ids.numel() for batch in batches]
        if len(batches) != 1:
            with self.meter.label("gradients"):
                for p in self.policy.parameters.values():
                    p.grad = torch.zeros_like(p)
        if batches:
            batch = batches[self.sizes.index(max(self.sizes))]
            with self.meter.phase() as phase:
                backward(replace(batch, layout=self._laid(batch.layout)), batch.needs_reference)
            self.cost = phase.cost

    def _laid(self, layout: Any) -> Any:
        """A layout as the device wants it."""
        if self.meter.device.is_gpu and isinstance(layout, Tree):  # the tree is the mask of flex_attention, and stays
            return replace(layout, ids=_hollow(layout.ids))
        return _hollow(layout.to(self.policy.device))


def _hollow(value: Any) -> Any:
    """A layout with hollow tensors in the place of its real ones."""
    if isinstance(value, Tensor):
        return Hollow(value.to("meta"))
    if isinstance(value, tuple):
        return tuple(map(_hollow, value))
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: _hollow(getattr(value, f.name)) for f in fields(value)})
    return value


class _Sampler:
    """What decodes on hollow tensors."""

    def __init__(self, recipe: Recipe, config: Any, device: Device) -> None:
        self.recipe, self.meter = recipe, Meter(device)
        self.policy = _policy(recipe, config, self.meter)

    def extended(self, rows: int, columns: int, batch: CachedRows | None = None) -> CachedRows:
        """CachedRows with so many more columns; by default new ones."""
        batch = batch or CachedRows.empty(
            self.policy.decoder, Hollow(torch.zeros(rows, 0, dtype=torch.long, device="meta"))
        )
        batch.extend(self.policy.decoder, batch.mask.new_zeros(rows, columns))
        return batch

    def step(self, batch: CachedRows) -> Cost:
        """Compute one more token of each row and draw the next."""
        temperature, rows = self.recipe.engine.temperature, len(batch.mask)
        with self.meter.phase() as phase, self.meter.label("logits"):
            logits = batch.extend(self.policy.decoder, batch.mask.new_zeros(rows, 1))
            scores = log_probabilities(logits, temperature)
            sample_tokens(scores, scores.new_zeros(rows, dtype=torch.float64), temperature)
        return phase.cost

    def decoding(self, call: Sampled, scale: float, tail: Cost, last: bool) -> Decoding:
        """One call of the engine."""
        asked = round(scale * call.rows)
        settings = self.recipe.engine.settings
        rows = min(asked, settings.batch_size)
        middle = call.prompt + round(call.response / 2)
        at_once = max(1, min(round(scale * call.prompts), PREFILL_TOKENS // call.fresh))
        with self.meter.phase() as prefill:
            self.extended(at_once, call.fresh)
        with self.meter.label("keys and values"):
            batch = self.extended(rows, middle)
            step = self.step(batch)
            self.extended(rows, call.prompt + call.longest - middle, batch)
            left = 0 if last else asked * batch.mask.shape[1] * batch.column_bytes  # to the next turn
            kept = batch.mask.new_empty(min(settings.prefix_cache_bytes, left), dtype=torch.uint8)
            with self.meter.phase() as memory:
                if asked > rows:
                    batch = concatenate_rows([(batch, torch.arange(rows))])  # waiting rows enter: both copies live
                self.step(batch)
        del kept
        return Decoding(
            memory=memory,
            prefill=prefill.cost,
            prefills=scale * call.prompts / at_once,
            step=step,
            steps=asked / rows * call.response,
            tail=tail,
            tails=call.longest - call.response,
        )
