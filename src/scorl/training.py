"""The training loop: sample -> judge -> credit -> learn, stage after stage.

`train` is a generator: logging, evaluation and saving happen around it, in whoever iterates.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean as mean
from typing import Any

from scorl import metrics
from scorl.chat import Chat
from scorl.engines.engine import Engine
from scorl.engines.torch import TorchEngine
from scorl.learner import Learner, Progress
from scorl.objectives import Supervised
from scorl.policy import Policy
from scorl.rollout import demonstrate, rollout
from scorl.seeds import derive
from scorl.settings import LearnerSettings, Sampling
from scorl.stage import Stage
from scorl.tasks.task import Task
from scorl.trajectory import Group, Lesson, Problem

__all__ = ["Step", "train"]


@dataclass(frozen=True)
class Step:
    """One step: what was sampled, what was learned from it, and what it cost."""

    index: int
    """Updates of the policy before this one, over all stages."""
    stage: Stage
    groups: list[Group]
    lessons: list[Lesson]
    progress: Progress
    seconds: dict[str, float]
    """`sample`, `judge`, `learn`."""

    def line(self) -> dict[str, Any]:
        """The step's line of `steps.jsonl`; what is undefined (flips of a single attempt, say) is null."""
        sampled = not isinstance(self.stage.objective, Supervised)
        measured = metrics.measure(self.groups)
        kept = [n for n in measured if not n.startswith(("tokens", "fix_rate", "break_rate", "edit_ratio"))]
        attempts = [a for group in self.groups for t in group for a in t.attempts]
        kl = {f"kl_t{turn + 1}": _finite(self.progress.kl.get(turn)) for turn in range(max(2, self.stage.attempts))}
        rewards = {
            f"reward_t{turn + 1}": mean([t.attempts[turn].reward for group in self.groups for t in group])
            for turn in range(self.stage.attempts)
        }
        return {
            "step": self.index,
            "stage": self.stage.label,
            "objective": self.stage.objective_name,
            **{name: measured[name] if sampled else None for name in kept},
            **{name: value if sampled else None for name, value in rewards.items()},
            **kl,
            "loss": _finite(self.progress.loss),
            "grad_norm": _finite(self.progress.grad_norm),
            "lr": self.progress.lr,
            "logprob_gap": _finite(self.progress.logprob_gap),
            "skipped": self.progress.skipped,
            "tokens": sum(len(a.ids) for a in attempts),
            "seconds": {name: round(value, 4) for name, value in self.seconds.items()},
        }


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
        learner: by default a new one with `LearnerSettings()`; one that has made updates goes on behind them.

    Raises:
        GuardError: the run would train on nonsense; the message says why.
    """
    sampling = sampling or Sampling()
    engine = engine or TorchEngine(policy)
    total = sum(stage.steps for stage in stages)
    learner = learner or Learner(policy, LearnerSettings(), total=total, temperature=sampling.temperature)
    step = drawn = 0
    for stage in stages:
        for index in range(stage.steps):
            if step >= learner.updates:
                if index == 0:
                    _enter(stage, learner)
                problems = task.split(split).draw(stage.problems, drawn, seed)
                yield _step(step, stage, problems, task, engine, policy.chat, learner, sampling, seed)
            step += 1
            drawn += stage.problems


def _finite(value: float | None) -> float | None:
    """JSON knows no NaN."""
    return value if value is not None and math.isfinite(value) else None


def _enter(stage: Stage, learner: Learner) -> None:
    if stage.renew_reference:
        learner.renew_reference()
    if stage.reset_optimizer:
        learner.reset_optimizer()


def _step(
    step: int,
    stage: Stage,
    problems: list[Problem],
    task: Task,
    engine: Engine,
    chat: Chat,
    learner: Learner,
    sampling: Sampling,
    seed: int,
) -> Step:
    """Sample, judge, credit, learn."""
    began = time.perf_counter()
    clocked, judging = _clocked(task)
    if isinstance(stage.objective, Supervised):
        groups = demonstrate(chat, clocked, problems)
    else:
        groups = rollout(
            engine,
            chat,
            clocked,
            problems,
            samples=stage.samples,
            attempts=stage.attempts,
            temperature=sampling.temperature,
            max_tokens=sampling.max_tokens,
            seed=lambda problem, sample, turn: derive(seed, step, problem.id, sample, turn),
            policy=learner.updates,
        )
    sampled = time.perf_counter()
    lessons = [lesson for group in groups for lesson in stage.objective(group)]
    progress = learner.update(lessons)
    seconds = {
        "sample": sampled - began - judging[0],
        "judge": judging[0],
        "learn": time.perf_counter() - sampled,
    }
    return Step(step, stage, groups, lessons, progress, seconds)


def _clocked(task: Task) -> tuple[Task, list[float]]:
    """The task with a judge that adds up its seconds."""
    seconds = [0.0]

    def judge(pairs: Sequence[tuple[Problem, str]]) -> list[Any]:
        began = time.perf_counter()
        verdicts = task.judge(pairs)
        seconds[0] += time.perf_counter() - began
        return verdicts

    return replace(task, judge=judge), seconds
