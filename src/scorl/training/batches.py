"""Batches: what each step of a stage learns from, wherever the stage's objective says that it comes from.

`policy` samples and judges in every step; `solutions` takes the problems' reference solutions; `collected` samples all
of the stage's problems when the stage begins, and each step learns from an equal share of the training examples.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

from scorl import metrics
from scorl.engines.engine import Engine
from scorl.engines.reference import ReferenceEngine
from scorl.errors import DamagedError, GuardError, UserError
from scorl.learner import Learner
from scorl.model.context import check_solutions
from scorl.objectives import Objective
from scorl.rollout import Draws, OfflineAttempts, demonstrate, rollout
from scorl.seeds import derive
from scorl.settings import Sampling
from scorl.tasks.task import Task
from scorl.training.collected import RolloutStore
from scorl.training.drawn import check_drawn
from scorl.training.handover import weights_for_sampling
from scorl.training.stage import Stage
from scorl.trajectory import Credit, Group, Problem, TrainingExample, Verdict
from scorl.verifiers.order import check_order

__all__ = ["Batch", "Batches", "Leg", "legs"]

COLLECTED = ("accuracy_t1", "accuracy_t2", "incorrect_to_correct", "correct_to_incorrect", "answer_changed")
"""The metrics of the trajectories that a stage collected which its first step notes."""


@dataclass(frozen=True)
class Leg:
    """A stage in its place in the run."""

    number: int
    stage: Stage
    first_step: int
    first_problem: int
    """Problems that the run draws before it."""

    @property
    def end(self) -> int:
        """The run's steps when the stage is done."""
        return self.first_step + self.stage.steps


def legs(stages: Sequence[Stage]) -> Iterator[Leg]:
    """The stages of a run with what lies before each."""
    step = problem = 0
    for number, stage in enumerate(stages):
        yield Leg(number, stage, step, problem)
        step += stage.steps
        problem += stage.steps * stage.problems


@dataclass(frozen=True)
class Batch:
    """What one step learns from, the same on all ranks."""

    step: int
    objective: Objective
    """The stage's, with the settings that have adapted."""
    groups: Sequence[Group]
    examples: Sequence[TrainingExample]
    seconds: Mapping[str, float]
    sampling: Sampling
    """How responses were asked for."""
    sync_gap: float | None = None
    collected: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Batches:
    """Makes the batches of one leg after the other; what it holds is the same for all of them."""

    task: Task
    engine: Engine
    learner: Learner
    sampling: Sampling
    seed: int
    split: str
    store: RolloutStore

    def of(self, leg: Leg) -> Iterator[Batch]:
        """The batches of the steps that are still to be made, each made when it is asked for."""
        steps = range(max(leg.first_step, self.learner.updates), leg.end)
        return self._collected(leg, steps) if leg.stage.objective.source == "collected" else self._sampled(leg, steps)

    def _sampled(self, leg: Leg, steps: Sequence[int]) -> Iterator[Batch]:
        for step in steps:
            objective = replace(leg.stage.objective, **self.learner.adaptive)
            problems = self._problems(leg, step)
            own, seconds, sync_gap = self._groups(leg.stage, step, problems)
            groups = self.learner.ranks.all_concat(own, "the trajectories of a step")
            examples = [example for group in groups for example in _examples(objective, group)]
            yield Batch(
                step,
                objective,
                groups,
                objective.over_batch(examples),
                seconds,
                self.sampling,
                sync_gap,
            )

    def _collected(self, leg: Leg, steps: Sequence[int]) -> Iterator[Batch]:
        began = time.perf_counter()
        objective = leg.stage.objective
        groups = self._collect(leg)
        examples = objective.over_batch([example for group in groups for example in _examples(objective, group)])
        count = f"{len(examples)} of {sum(map(len, groups))} trajectories"
        shares = _shares(examples, leg.stage, derive(self.seed, "lessons", leg.number), count)
        rates = {name: value for name, value in metrics.measure(groups).items() if name in COLLECTED}
        tokens = sum(map(metrics.count_tokens, groups))
        about = {"trajectories": sum(map(len, groups)), "examples": len(examples), "tokens": tokens, **rates}
        for step in steps:
            share = shares[step - leg.first_step]
            yield Batch(
                step,
                objective,
                [[example.trajectory] for example in share],
                share,
                {"sample": time.perf_counter() - began, "judge": 0.0},
                self.sampling,
                collected=about if step == leg.first_step else None,
            )
            began = time.perf_counter()

    def _collect(self, leg: Leg) -> list[Group]:
        """Every step's groups, all by the policy as it stood when the stage began."""
        groups: list[Group] = []
        for index in range(leg.stage.steps):
            step = leg.first_step + index
            problems = self._problems(leg, step)
            moved_on = self.learner.updates > leg.first_step
            try:
                stored = self.store.read(leg.number, index, problems)
            except DamagedError as error:
                if moved_on:
                    message = f"{error}; the policy that it was collected from has moved on: restore it, or start anew"
                    raise UserError(message) from None
                stored = None  # which comes out the same
            if stored is None:
                if moved_on:
                    raise GuardError(
                        f"what stage {leg.number} ({leg.stage.label}) collected at its start is gone, and the policy "
                        "has moved on: start the run anew"
                    )
                own, _, _ = self._groups(leg.stage, step, problems)
                stored = self.learner.ranks.all_concat(own, "a collection")
                self.store.write(leg.number, index, leg.stage.steps, stored)
            groups += stored
        return groups

    def _problems(self, leg: Leg, step: int) -> list[Problem]:
        start = leg.first_problem + (step - leg.first_step) * leg.stage.problems
        return self.task.split(self.split).draw(leg.stage.problems, start, self.seed)

    def _groups(
        self, stage: Stage, step: int, problems: Sequence[Problem]
    ) -> tuple[list[Group], dict[str, float], float | None]:
        """This rank's share of a step's groups, the seconds they took, and what the engine's check of its weights found
        where it has weights of its own."""
        clock = _JudgeClock(self.task)
        mine = self.learner.ranks.shard(len(problems))
        began = time.perf_counter()
        if stage.objective.source == "solutions":
            check_solutions(self.learner.policy.chat, problems, self.learner.policy.max_positions)  # all ranks alike
            groups = demonstrate(self.engine.chat, clock.task, problems[mine])
            clock.check(groups)
            return groups, {"sample": time.perf_counter() - began - clock.seconds, "judge": clock.seconds}, None
        with weights_for_sampling(self.engine, self.learner, reference=stage.offline > 0) as sync_gap:
            synced = time.perf_counter() - began
            draws = self._draws(stage, step, problems[: mine.start])
            groups = rollout(self.engine, clock.task, problems[mine], self.task.turns(stage.attempts), draws)
        clock.check(groups)
        check_drawn(self.engine.chat, groups)
        sync = {} if sync_gap is None else {"sync": synced}
        sampled = time.perf_counter() - began - clock.seconds - sum(sync.values())
        return groups, {"sample": sampled, "judge": clock.seconds, **sync}, sync_gap

    def _draws(self, stage: Stage, step: int, before: Sequence[Problem]) -> Draws:
        reference = ReferenceEngine(self.engine, self.learner.reference) if stage.offline else None
        return Draws(
            seed=lambda problem, sample, place: derive(self.seed, step, problem.id, sample, place),
            samples=stage.samples,
            sampling=self.sampling,
            branches=stage.branches,
            first=stage.first,
            offline=OfflineAttempts(reference, stage.offline) if reference else None,
            policy=self.learner.updates,
            before=before,
        )


def _examples(objective: Objective, group: Group) -> list[TrainingExample]:
    """The objective's examples; a response that inference would not have come to is not trained on."""
    examples = objective(group)
    return [
        replace(e, credits=(*e.credits[:reached], *[Credit()] * (len(e.credits) - reached)))
        if (reached := len(e.trajectory.reached)) < len(e.credits)
        else e
        for e in examples
    ]


def _shares(examples: Sequence[TrainingExample], stage: Stage, seed: int, count: str) -> list[list[TrainingExample]]:
    """The examples of each step: `epochs` shuffled passes, cut into as many equal pieces as there are steps."""
    rng = random.Random(seed)
    passes = [example for _ in range(stage.objective.epochs) for example in rng.sample(examples, len(examples))]
    if len(passes) < stage.steps:
        raise GuardError(
            f"stage {stage.label}: {count} that were collected enter the data set, too few for {stage.steps} steps; "
            "take fewer steps, more samples or problems a step, or more epochs"
        )
    cuts = [len(passes) * index // stage.steps for index in range(stage.steps + 1)]
    return [passes[a:b] for a, b in pairwise(cuts)]


@dataclass
class _JudgeClock:
    """A task whose judge adds up its seconds here, and what it takes to judge some answers again."""

    inner: Task
    seconds: float = 0.0
    task: Task = field(init=False)

    def __post_init__(self) -> None:
        self.task = replace(self.inner, judge=self._judge)

    def _judge(self, pairs: Sequence[tuple[Problem, str]]) -> list[Verdict]:
        began = time.perf_counter()
        verdicts = self.inner.judge(pairs)
        self.seconds += time.perf_counter() - began
        return verdicts

    def check(self, groups: Sequence[Group]) -> None:
        """See that the rewards that trajectories carry are their own."""
        began = time.perf_counter()
        check_order(self.inner.judge, groups)
        self.seconds += time.perf_counter() - began
