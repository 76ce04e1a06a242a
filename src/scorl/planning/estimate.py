"""A plan: whether it fits, how long each stage takes, what all of it costs."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from scorl.objectives import Reinforce
from scorl.planning.advice import Remedy, fits, remedies
from scorl.planning.memory import Memory, memory
from scorl.planning.seconds import StepTime, step_time
from scorl.planning.setup import Setup
from scorl.planning.tokens import lesson, micro_batches
from scorl.settings import EvaluationSettings
from scorl.training.stage import Stage

__all__ = ["Estimate", "StageEstimate", "estimated"]


@dataclass(frozen=True)
class StageEstimate:
    """A stage: one of its steps, and all of them."""

    label: str
    steps: int
    tokens: float
    """Distinct ones that each device learns from in a step."""
    micro_batches: int
    time: StepTime

    @property
    def seconds(self) -> float:
        """Of all steps."""
        return self.steps * self.time.seconds


@dataclass(frozen=True)
class Estimate:
    """What is to be expected of a setup."""

    setup: Setup
    memory: Memory
    stages: tuple[StageEstimate, ...]
    evaluations: int
    evaluation: float
    """Seconds of one evaluation."""
    fits: bool
    remedies: tuple[Remedy, ...]
    price: float | None
    """Of a device's hour; None: not known."""

    @property
    def seconds(self) -> float:
        """Of the whole run, but for judging, loading and saving."""
        return sum(stage.seconds for stage in self.stages) + self.evaluations * self.evaluation

    @property
    def device_hours(self) -> float:
        """Hours of all devices."""
        return self.setup.count * self.seconds / 3600

    @property
    def cost(self) -> float | None:
        """In the price's currency."""
        return None if self.price is None else self.price * self.device_hours

    def as_dict(self) -> dict[str, Any]:
        """The plan as JSON has it: bytes, seconds, operations."""
        shape, setup = self.setup.shape, self.setup
        return {
            "model": {"parameters": shape.parameters, "trained": setup.trained, "dtype": setup.dtype},
            "lengths": asdict(setup.lengths),
            "device": {"name": setup.device.name, "count": setup.count, "parallel": setup.parallel},
            "rates": asdict(setup.rates),
            "memory": asdict(self.memory)
            | {
                "at_sampling": self.memory.at_sampling,
                "at_learning": self.memory.at_learning,
                "usable": setup.device.usable(),
            },
            "fits": self.fits,
            "remedies": [asdict(remedy) for remedy in self.remedies],
            "stages": [asdict(stage) | {"seconds": stage.seconds} for stage in self.stages],
            "evaluations": {"count": self.evaluations, "seconds": self.evaluation},
            "seconds": self.seconds,
            "device_hours": self.device_hours,
            "cost": self.cost,
        }


WHOLE_SPLIT = 500
"""Problems that a whole split is taken to have, as MATH500 has."""


def estimated(setup: Setup, evaluations: EvaluationSettings, price: float | None = None) -> Estimate:
    """The plan of a setup."""
    fit = fits(setup)
    steps = sum(stage.steps for stage in setup.stages)
    return Estimate(
        setup=setup,
        memory=memory(setup),
        stages=tuple(_stage(setup, stage) for stage in setup.stages),
        evaluations=len({0, steps, *(range(0, steps, evaluations.eval_steps) if evaluations.eval_steps else ())}),
        evaluation=_evaluation(setup, evaluations),
        fits=fit,
        remedies=() if fit else tuple(remedies(setup)),
        price=price,
    )


def _stage(setup: Setup, stage: Stage) -> StageEstimate:
    learned = lesson(setup, stage)
    return StageEstimate(
        stage.label, stage.steps, learned.tokens, micro_batches(setup, learned), step_time(setup, stage)
    )


def _evaluation(setup: Setup, evaluations: EvaluationSettings) -> float:
    """Every problem gets as many attempts as a stage has at most, on one device."""
    attempts = max([2, *(stage.attempts for stage in setup.stages)])
    asked = Stage(Reinforce(), 1, evaluations.problems or WHOLE_SPLIT, evaluations.samples, attempts=attempts)
    return step_time(replace(setup, count=1), asked).sample
