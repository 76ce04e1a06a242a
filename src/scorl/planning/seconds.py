"""How long a step takes on one of the devices, and what the devices have to tell each other."""

from __future__ import annotations

from dataclasses import dataclass

from scorl.planning.setup import Setup
from scorl.planning.tokens import lesson, micro_batches, writings
from scorl.planning.work import Work, learning, sampling
from scorl.training.stage import Stage

__all__ = ["StepTime", "step_time"]


@dataclass(frozen=True)
class StepTime:
    """Seconds of a step of a stage, and the operations of all devices."""

    sample: float
    learn: float
    exchange: float
    flops: float

    @property
    def seconds(self) -> float:
        """All of it, one after the other; judging is not planned."""
        return self.sample + self.learn + self.exchange


def step_time(setup: Setup, stage: Stage) -> StepTime:
    """The step of a stage."""
    sampled = [work for writing in writings(setup, stage) for work in sampling(setup, writing)]
    learned = learning(setup, lesson(setup, stage))
    return StepTime(
        sample=_total(setup, sampled) + _decode_calls(setup, stage),
        learn=_total(setup, learned) + _learn_calls(setup, stage),
        exchange=_exchange(setup, stage),
        flops=setup.count * sum(work.flops + work.attended for work in (*sampled, *learned)),
    )


def _total(setup: Setup, works: list[Work]) -> float:
    return sum(work.seconds(setup.rates) for work in works)


def _decode_calls(setup: Setup, stage: Stage) -> float:
    """Python and dispatch of every decoded step; vLLM replays recorded graphs instead."""
    if setup.engine == "vllm":
        return 0.0
    rates, calls = setup.rates, writings(setup, stage)
    step = rates.decode_call + setup.shape.layers * rates.decode_layer
    return sum(writing.steps * step + writing.rows * rates.response for writing in calls)


def _learn_calls(setup: Setup, stage: Stage) -> float:
    layers = setup.shape.layers * setup.rates.learn_layer
    return micro_batches(setup, lesson(setup, stage)) * (setup.rates.learn_call + layers)


def _exchange(setup: Setup, stage: Stage) -> float:
    """Seconds of communication, none of it hidden behind computation: the upper bound.

    DDP sums the gradients once, in a ring. FSDP2 gathers weights for every pass and scatters gradients after each
    micro-batch, and gathers them once more for sampling.
    """
    if setup.count == 1:
        return 0.0
    share = (setup.count - 1) / setup.count
    gradients = 4 * setup.trained
    if setup.parallel == "ddp":
        moved = 2.0 * gradients
    else:
        learned = lesson(setup, stage)
        passes = 2 + learned.anchored + setup.learner.gradient_checkpointing
        weights = setup.size * setup.shape.parameters
        moved = micro_batches(setup, learned) * (passes * weights + gradients) + weights * (
            stage.objective.source != "solutions"
        )
    return share * moved / setup.device.between(setup.count)
