"""Real steps on this machine, in place of an estimate of their time."""

from __future__ import annotations

import resource
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import torch

from scorl.engines.engine import Arithmetic
from scorl.learner import Learner, Progress
from scorl.model.rates import process_clock
from scorl.recipe import Recipe
from scorl.run.build import build
from scorl.trajectory import TrainingExample

__all__ = ["MeasuredStage", "Peak", "measure"]


@dataclass(frozen=True)
class MeasuredStage:
    """A step of a stage, in seconds by `process_clock`: the median of some."""

    sample: float
    """Judging included."""
    learn: float


def measure(recipe: Recipe, steps: int) -> tuple[list[MeasuredStage], float]:
    """Make `steps` steps of each stage, behind a first one that warms up; nothing is written.

    Returns:
        The stages, and the bytes of the process or of the GPU's tensors at their height.
    """
    built, stages = build(recipe), []
    with Peak() as peak:
        for stage in recipe.stages:
            alone = replace(built, recipe=replace(recipe, stages=(replace(stage, steps=steps + 1),)))
            learner = _Clocked(built.policy, recipe.learner, total=recipe.steps, temperature=recipe.engine.temperature)
            began, seconds = process_clock(), []
            for _ in alone.train(learner):
                seconds.append((process_clock() - began - learner.seconds, learner.seconds))
                began = process_clock()
            stages.append(MeasuredStage(*(median(column) for column in zip(*seconds[1:], strict=True))))
    return stages, peak.bytes


class _Clocked(Learner):
    """A learner that knows how long its last update took."""

    seconds = 0.0

    def update(self, examples: Sequence[TrainingExample], arithmetic: Arithmetic = "same") -> Progress:
        """See `Learner.update`."""
        began = process_clock()
        progress = super().update(examples, arithmetic)
        self.seconds = process_clock() - began
        return progress


class Peak:
    """The most memory within a `with` block, in bytes: resident, or of tensors where there is a GPU."""

    def __enter__(self) -> Peak:
        self._done = threading.Event()
        self.bytes = _resident()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        if torch.cuda.is_available():
            self.bytes = float(torch.cuda.max_memory_allocated())

    def _watch(self) -> None:
        while not self._done.wait(0.01):
            self.bytes = max(self.bytes, _resident())


def _resident() -> float:
    """Bytes of this process in memory; where the system does not tell, the most that there were."""
    file = Path("/proc/self/statm")
    if not file.exists():
        return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return int(file.read_text().split()[1]) * float(resource.getpagesize())
