"""A plan: what each device has to hold, how long a step takes, and whether it fits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from scorl.estimate.device import GIB, Device
from scorl.estimate.ledger import COPIES
from scorl.estimate.served import ASLEEP, SERVER, Served
from scorl.estimate.trace import Decoding, Learning, trace_decoding, trace_learning
from scorl.estimate.workload import Lengths, Workload, workload
from scorl.recipe import Recipe
from scorl.training.stage import Stage

__all__ = ["Case", "Memory", "StagePlan", "memory_of", "problems_of", "stage_plans"]

VLLM = "vLLM"


@dataclass(frozen=True)
class Case:
    """A recipe on a device, and what was traced of it."""

    recipe: Recipe
    device: Device
    config: Any
    """The model's Hugging Face configuration."""
    lengths: Lengths
    on_trace: Callable[[str], None] = field(default=lambda what: None, repr=False)
    """Is told what is traced next; a large model takes some seconds each time."""
    _traces: dict[str, Any] = field(default_factory=dict, repr=False)
    """Shared by cases that differ in other settings."""

    @property
    def count(self) -> int:
        """Devices."""
        return self.recipe.launcher.workers or 1

    @property
    def shards(self) -> int:
        """Into how many parts weights are divided."""
        return self.count if self.recipe.launcher.parallel == "fsdp2" else 1

    @property
    def size(self) -> int:
        """Bytes of a number that is computed with."""
        return 2 if self.recipe.model.dtype in ("bfloat16", "float16") else 4

    @property
    def served(self) -> Served | None:
        """The model in vLLM's server; None where another engine samples."""
        if self.recipe.engine.name != "vllm":
            return None
        parameters = self.learning(self.recipe.stages[0]).parameters
        return Served(self.config, parameters, self.size, self.recipe.engine.settings, self.device)

    @property
    def vllm_bytes(self) -> float:
        """vLLM's share of the device; 0 where another engine samples or the server is elsewhere, or on a CPU."""
        return self.served.share if self.served and not self.served.settings.is_elsewhere else 0.0

    def workload(self, stage: Stage) -> Workload:
        """What a step of a stage has to sample and to learn."""
        return workload(self.recipe, stage, self.lengths, self.config.get_text_config().vocab_size)

    def learning(self, stage: Stage) -> Learning:
        """See `trace_learning`."""
        work = self.workload(stage)
        what = f"learning in {stage.label}, {self.recipe.learner.tokens_per_microbatch} tokens a micro-batch"
        made: Learning = self._once((self.recipe.learner, work.key), lambda: self._traced(trace_learning, work, what))
        return made

    def decoding(self, stage: Stage) -> tuple[Decoding, ...]:
        """See `trace_decoding` and `Served`; nothing where canned answers or solutions are learned from."""
        work = self.workload(stage)
        if self.recipe.engine.name == "scripted":
            return ()
        if self.served:
            return self.served.decoding(work)
        parts = (self.recipe.engine.settings, self.recipe.engine.temperature, work.calls, work.scale)
        what = f"sampling in {stage.label}"
        made: tuple[Decoding, ...] = self._once(parts, lambda: self._traced(trace_decoding, work, what))
        return made

    def _traced(self, trace: Callable[..., Any], work: Workload, what: str) -> Any:
        self.on_trace(what)
        return trace(self.recipe, self.config, work, self.device)

    def _once(self, parts: object, make: Callable[[], Any]) -> Any:
        key = repr((self.recipe.model, parts))
        if key not in self._traces:
            self._traces[key] = make()
        return self._traces[key]


@dataclass(frozen=True)
class Memory:
    """Bytes on each device by part, at the height of sampling and of learning."""

    sampling: Mapping[str, float]
    learning: Mapping[str, float]

    @property
    def at_sampling(self) -> float:
        """Bytes."""
        return _total(self.sampling)

    @property
    def at_learning(self) -> float:
        """Bytes."""
        return _total(self.learning)

    @property
    def peak(self) -> float:
        """Bytes of the larger one."""
        return max(self.at_sampling, self.at_learning)


def memory_of(case: Case) -> Memory:
    """What the most demanding stage needs."""
    each = [_memory(case, stage) for stage in case.recipe.stages]
    return Memory(max(each, key=lambda m: m.at_sampling).sampling, max(each, key=lambda m: m.at_learning).learning)


def _memory(case: Case, stage: Stage) -> Memory:
    """FSDP2 divides what is there always, and gathers weights in the type that is computed in instead of copies."""
    learning = case.learning(stage)
    share = dict.fromkeys(("weights", "reference", "optimiser", "gradients"), 1 / case.shards)
    share[COPIES] = float(case.shards == 1)
    always = {label: share[label] * size for label, size in learning.memory.live.items() if size and label in share}
    learns = max((phase.peak(share) for phase in (learning.first, learning.memory)), key=_total)
    samples: dict[str, float] = dict(always)
    if case.served:
        samples |= _beside_vllm(case, case.served, stage)
    elif decoding := case.decoding(stage):
        height: dict[str, float] = max((call.memory.peak(share) for call in decoding), key=_total)
        samples |= height
    if case.shards > 1:
        learns["gathered weights"] = float(case.size * learning.gathered)
        if not case.served:
            samples["gathered weights"] = float(case.size * learning.parameters)
    if case.vllm_bytes:
        learns[VLLM] = ASLEEP if case.recipe.engine.settings.enable_sleep_mode else case.vllm_bytes
    return Memory(samples, learns)


def _beside_vllm(case: Case, served: Served, stage: Stage) -> dict[str, float]:
    """vLLM and the weights that it is sent, which are let go before it wakes as a whole (`scorl.training.handover`)."""
    sent: dict[str, float] = {}
    if case.shards > 1:
        sent["gathered weights"] = float(served.size * served.parameters)
    elif served.size < 4 and not case.recipe.model.lora:  # else they are sent as they are
        sent["weights on their way to vLLM"] = float(served.size * served.parameters)
    if not case.vllm_bytes:
        return sent
    whole = {VLLM: case.vllm_bytes}
    if not served.settings.enable_sleep_mode or stage.offline:  # the reference is sent too, while vLLM is awake
        return whole | sent
    return max(whole, {VLLM: served.weights, **sent}, key=_total)


def _total(parts: Mapping[str, float]) -> float:
    return sum(parts.values())


def problems_of(case: Case, memory: Memory) -> list[str]:
    """What does not fit, a sentence each."""
    problems = []
    for name, parts in (("sampling", memory.sampling), ("learning", memory.learning)):
        if (needed := _total(parts)) > case.device.usable:
            largest = max(parts, key=parts.__getitem__)
            problems.append(
                f"{name} needs {needed / GIB:.1f} GiB of {case.device.usable / GIB:.1f}, "
                f"{parts[largest] / GIB:.1f} of them for {largest}"
            )
    works = [case.workload(stage) for stage in case.recipe.stages]
    if (served := case.served) and any(work.calls and served.rows(work) < 1 for work in works):
        problems.append(
            f"vLLM's share of {served.share / GIB:.1f} GiB has no room for a row beside its weights "
            f"({served.weights / GIB:.1f}) and itself ({SERVER / GIB:.1f})"
        )
    return problems


@dataclass(frozen=True)
class StagePlan:
    """A stage: a step of it on each device, in seconds, and all steps."""

    label: str
    steps: int
    rows: float
    """Trajectories that a step samples, on all devices."""
    tokens: float
    """Distinct ones that each device learns from in a step."""
    micro_batches: float
    flops: float
    """Of each device."""
    sample: float
    learn: float
    exchange: float

    @property
    def step(self) -> float:
        """Seconds of a step."""
        return self.sample + self.learn + self.exchange

    @property
    def seconds(self) -> float:
        """Of all steps."""
        return self.steps * self.step

    def as_dict(self) -> dict[str, Any]:
        """The stage as JSON has it."""
        return asdict(self) | {"seconds": self.seconds}


def stage_plans(case: Case) -> list[StagePlan]:
    """How long each stage takes; judging, loading and saving are not planned."""
    return [_stage_plan(case, stage) for stage in case.recipe.stages]


def _stage_plan(case: Case, stage: Stage) -> StagePlan:
    learning, decoding = case.learning(stage), case.decoding(stage)
    calls = [(call.prefill, call.prefills) for call in decoding]
    calls += [part for call in decoding for part in ((call.step, call.steps), (call.tail, call.tails))]
    recorded = case.recipe.engine.name == "vllm"  # it replays graphs
    batch = learning.share * case.device.seconds(learning.batch)
    return StagePlan(
        label=stage.label,
        steps=stage.steps,
        rows=stage.problems * stage.samples,
        tokens=learning.tokens,
        micro_batches=learning.micro_batches,
        flops=learning.share * learning.batch.flops + sum(times * cost.flops for cost, times in calls),
        sample=sum(times * case.device.seconds(cost, recorded=recorded) for cost, times in calls),
        learn=batch + case.device.seconds(learning.once) / case.shards,
        exchange=_exchange(case, learning),
    )


def _exchange(case: Case, learning: Learning) -> float:
    """Seconds of communication, none of it hidden behind computation: the upper bound.

    DDP sums the gradients once, in a ring. FSDP2 gathers weights for the reference's pass and the policy's
    two, scatters gradients after each micro-batch, and gathers all weights once more for sampling.
    """
    if case.count == 1:
        return 0.0
    gradients, weights = 4.0 * learning.trained, case.size * learning.parameters
    moved = 2 * gradients
    if case.shards > 1:
        moved = learning.micro_batches * (3 * weights + gradients) + weights
    return (case.count - 1) / case.count * moved / case.device.between(case.count)
