"""The training loop: sample -> judge -> credit -> learn, stage after stage.

`train` is a generator: logging, evaluation and saving happen around it, in whoever iterates.

A stage of STaR or Pair-SFT samples all of its steps' problems when it begins, and its steps learn from that.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from scorl import metrics
from scorl.engines.engine import Engine
from scorl.engines.reference import ReferenceEngine
from scorl.engines.torch import TorchEngine
from scorl.errors import GuardError
from scorl.learner import Learner, Progress
from scorl.model.chat import Chat
from scorl.model.policy import Policy
from scorl.objectives import Objective, PairSFT, StageOne, Star
from scorl.rollout import Given, demonstrate, rollout
from scorl.seeds import derive
from scorl.settings import LearnerSettings, Sampling
from scorl.tasks.task import Task
from scorl.training.collected import MemoryRolloutStore, RolloutStore
from scorl.training.stage import Stage
from scorl.training.step import Step
from scorl.trajectory import Group, Problem, TrainingExample

__all__ = ["train"]


def train(
    policy: Policy,
    task: Task,
    stages: Sequence[Stage],
    *,
    seed: int = 0,
    split: str = "train",
    sampling: Sampling | None = None,
    engine: Engine | None = None,
    learner: Learner | None = None,
    store: RolloutStore | None = None,
) -> Iterator[Step]:
    """Train the policy in place; yields after every update.

    Args:
        policy: carries over from stage to stage; the reference moves only where a stage renews it.
        task: draws problems and judges.
        stages: pursued in order.
        seed: of problems and draws, which depend on (step, problem, sample, turn) alone.
        split: the task's split that problems are drawn from.
        sampling: temperature and token limit.
        engine: writes the attempts; by default the policy itself through `TorchEngine`.
        learner: by default a new one with `LearnerSettings()`; one that has made updates goes on behind them. Its
            ranks share every step's problems, and yield the same steps.
        store: keeps what a stage collects; by default it is kept in memory.

    Raises:
        GuardError: the run would train on nonsense; the message says why.
    """
    sampling = sampling or Sampling()
    engine = engine or TorchEngine(policy)
    total = sum(stage.steps for stage in stages)
    learner = learner or Learner(policy, LearnerSettings(), total=total, temperature=sampling.temperature)
    loop = _Loop(policy.chat, task, engine, learner, sampling, seed, split, store or MemoryRolloutStore())
    step = drawn = 0
    for number, stage in enumerate(stages):
        if step + stage.steps > learner.updates:
            if step >= learner.updates:
                _enter(stage, learner)
            steps = loop.collected if stage.collects else loop.sampled
            yield from steps(number, stage, step, drawn)
        step += stage.steps
        drawn += stage.steps * stage.problems


def _enter(stage: Stage, learner: Learner) -> None:
    learner.beta_2 = None
    if stage.reset_reference:
        learner.reset_reference()
    if stage.reset_optimizer:
        learner.reset_optimizer()


@dataclass(frozen=True)
class _Loop:
    """What stays the same from step to step."""

    chat: Chat
    task: Task
    engine: Engine
    learner: Learner
    sampling: Sampling
    seed: int
    split: str
    store: RolloutStore

    def sampled(self, number: int, stage: Stage, first: int, drawn: int) -> Iterator[Step]:
        """The steps of stage `number` still to be made, each learning from what it samples: the stage's first step
        is the run's `first`, and `drawn` problems were drawn before it."""
        for step in range(max(first, self.learner.updates), first + stage.steps):
            objective = _adapted(stage.objective, self.learner.beta_2)
            problems = self._problems(stage, drawn + (step - first) * stage.problems)
            groups, seconds, sync_gap = self._groups(stage, step, problems)
            examples = [example for group in groups for example in objective(group)]
            progress, seconds["learn"] = self._learn(examples)
            groups, examples = self._everybodys(groups, examples)
            beta_2 = None
            if isinstance(objective, StageOne) and objective.target_kl is not None:
                beta_2 = objective.beta_2
                self.learner.beta_2 = objective.adapted(progress.kl.get(0)).beta_2
            yield Step(step, stage, groups, examples, progress, seconds, beta_2, sync_gap)

    def collected(self, number: int, stage: Stage, first: int, drawn: int) -> Iterator[Step]:
        """The steps of a stage that collects, each learning from an equal share of the examples."""
        began = time.perf_counter()
        groups = self._collect(number, stage, first, drawn)
        examples = [example for group in groups for example in stage.objective(group)]
        count = f"{len(examples)} of {sum(map(len, groups))} trajectories"
        shares = _shares(examples, stage, derive(self.seed, "lessons", number), count)
        known = {k: v for k, v in metrics.measure(groups).items() if k in COLLECTED}
        about = {"trajectories": sum(map(len, groups)), "examples": len(examples), **known}
        for step in range(max(first, self.learner.updates), first + stage.steps):
            sampled, began = time.perf_counter() - began, time.perf_counter()
            mine = self.learner.ranks.shard(len(shares[step - first]))
            progress, learned = self._learn(shares[step - first][mine])
            seconds = {"sample": sampled, "judge": 0.0, "learn": learned}
            taught = [[example.trajectory] for example in shares[step - first]]
            collected = about if step == first else None
            yield Step(step, stage, taught, shares[step - first], progress, seconds, collected=collected)
            began = time.perf_counter()

    def _learn(self, examples: Sequence[TrainingExample]) -> tuple[Progress, float]:
        began = time.perf_counter()
        return self.learner.update(examples), time.perf_counter() - began

    def _collect(self, number: int, stage: Stage, first: int, drawn: int) -> list[Group]:
        """Every step's groups, all by the policy as it stood when the stage began."""
        groups: list[Group] = []
        for index in range(stage.steps):
            problems = self._problems(stage, drawn + index * stage.problems)
            kept = self.store.read(number, index, problems)
            if kept is None:
                if self.learner.updates > first:
                    raise GuardError(
                        f"what stage {number} ({stage.label}) collected at its start is gone, and the policy has moved "
                        "on: start the run anew"
                    )
                kept = self.learner.ranks.all_concat(self._groups(stage, first + index, problems)[0], "a collection")
                self.store.write(number, index, stage.steps, kept)
            groups += kept
        return groups

    def _problems(self, stage: Stage, start: int) -> list[Problem]:
        return self.task.split(self.split).draw(stage.problems, start, self.seed)

    def _everybodys(
        self, groups: list[Group], examples: list[TrainingExample]
    ) -> tuple[list[Group], list[TrainingExample]]:
        """The groups and examples of all ranks, in the order of the problems."""
        shares = self.learner.ranks.all_gather((groups, examples), "the attempts of a step")
        return [group for share, _ in shares for group in share], [example for _, share in shares for example in share]

    def _groups(
        self, stage: Stage, step: int, problems: Sequence[Problem]
    ) -> tuple[list[Group], dict[str, float], float | None]:
        """Sample and judge this rank's share of what a step wants; the seconds that it took, and what the engine's
        check found where it has weights of its own."""
        began = time.perf_counter()
        clocked, judging = _clocked(self.task)
        mine = self.learner.ranks.shard(len(problems))
        if stage.samples_nothing:
            groups = demonstrate(self.chat, clocked, problems[mine])
            return groups, {"sample": time.perf_counter() - began - judging[0], "judge": judging[0]}, None
        with self.learner.whole(reference=stage.offline > 0):
            gap, loaded = self.engine.load(), time.perf_counter()
            groups = self._rollout(stage, step, clocked, problems[mine], problems[: mine.start])
        synced = {} if gap is None else {"sync": loaded - began}
        sampled = time.perf_counter() - began - judging[0] - sum(synced.values())
        return groups, {"sample": sampled, "judge": judging[0], **synced}, gap

    def _rollout(
        self, stage: Stage, step: int, task: Task, problems: Sequence[Problem], before: Sequence[Problem]
    ) -> list[Group]:
        return rollout(
            self.engine,
            self.chat,
            task,
            problems,
            turns=task.turns(stage.attempts),
            samples=stage.samples,
            branches=stage.branches,
            given=Given(ReferenceEngine(self.engine, self.learner.reference), stage.offline),
            temperature=self.sampling.temperature,
            max_tokens=self.sampling.max_tokens,
            seed=lambda problem, sample, turn: derive(self.seed, step, problem.id, sample, turn),
            policy=self.learner.updates,
            before=before,
        )


COLLECTED = ("accuracy_t1", "accuracy_t2", "incorrect_to_correct", "correct_to_incorrect", "answer_changed")
"""What is told of the trajectories that a stage collected."""


def _adapted(objective: Objective, beta_2: float | None) -> Objective:
    return replace(objective, beta_2=beta_2) if isinstance(objective, StageOne) and beta_2 is not None else objective


def _shares(examples: list[TrainingExample], stage: Stage, seed: int, count: str) -> list[list[TrainingExample]]:
    """The examples of each step: `epochs` shuffled passes, cut into as many equal pieces as there are steps."""
    assert isinstance(stage.objective, Star | PairSFT)
    rng = random.Random(seed)
    passes = [example for _ in range(stage.objective.epochs) for example in rng.sample(examples, len(examples))]
    if len(passes) < stage.steps:
        raise GuardError(
            f"stage {stage.label}: {count} that were collected enter the data set, too few for {stage.steps} steps; "
            "take fewer steps, more samples or problems a step, or more epochs"
        )
    cuts = [len(passes) * index // stage.steps for index in range(stage.steps + 1)]
    return [passes[a:b] for a, b in pairwise(cuts)]


def _clocked(task: Task) -> tuple[Task, list[float]]:
    """The task with a judge that adds up its seconds."""
    seconds = [0.0]

    def judge(pairs: Sequence[tuple[Problem, str]]) -> list[Any]:
        began = time.perf_counter()
        verdicts = task.judge(pairs)
        seconds[0] += time.perf_counter() - began
        return verdicts

    return replace(task, judge=judge), seconds
