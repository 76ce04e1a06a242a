"""A plan beside a run: a few steps made here, measured, and set beside what the plan says of texts as long."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean as mean

from scorl.learner import Learner, Progress
from scorl.planning.memory import memory
from scorl.planning.prepare import Wanted, described
from scorl.planning.probe import clock, resident, settled, this_cpu
from scorl.planning.seconds import step_time
from scorl.planning.texts import lengths_in, shape_of
from scorl.recipe import Recipe
from scorl.run.build import BuiltRecipe, build
from scorl.run.files import response_records
from scorl.training.step import Step
from scorl.trajectory import TrainingExample

__all__ = ["Figures", "beside"]


@dataclass(frozen=True)
class Figures:
    """A step of the first stage: seconds by the probe's clock, and bytes of the process at its height."""

    sample: float
    """Judging included, which a plan takes to cost nothing."""
    learn: float
    bytes: float


def beside(recipe: Recipe, steps: int) -> tuple[Figures, Figures]:
    """What is predicted, and what is measured: `steps` steps of a recipe behind a first one, which warms up."""
    runtime = settled()
    made, measured = _made(build(recipe), steps)
    lengths = lengths_in([_lines(step) for step in made])
    setup = described(recipe, Wanted(), shape_of(recipe, None), lengths)
    setup = replace(setup, stages=recipe.stages[:1], device=replace(this_cpu(setup), runtime=runtime))
    time = step_time(setup, recipe.stages[0])
    return Figures(time.sample, time.learn, memory(setup).peak), measured


def _made(built: BuiltRecipe, steps: int) -> tuple[list[Step], Figures]:
    """The steps, and what they took on average."""
    recipe = built.recipe
    learner = _Clocked(built.policy, recipe.learner, total=recipe.steps, temperature=recipe.engine.temperature)
    run = built.train(learner)
    made, seconds = [], []
    with Peak() as peak:
        for _ in range(steps + 1):
            began = clock()
            made.append(next(run))
            seconds.append((clock() - began - learner.seconds, learner.seconds))
    sample, learn = (mean(column) for column in zip(*seconds[1:], strict=True))
    return made[1:], Figures(sample, learn, peak.bytes)


def _lines(step: Step) -> list[dict[str, object]]:
    return [record for example in step.examples for record in response_records(step.index, example.trajectory)]


class _Clocked(Learner):
    """A learner that knows how long its last update took."""

    seconds = 0.0

    def update(self, lessons: Sequence[TrainingExample]) -> Progress:
        """See `Learner.update`."""
        began = clock()
        progress = super().update(lessons)
        self.seconds = clock() - began
        return progress


class Peak:
    """The largest resident size within a `with` block, in bytes."""

    def __enter__(self) -> Peak:
        self._done = threading.Event()
        self.bytes = resident()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.01):
            self.bytes = max(self.bytes, resident())
