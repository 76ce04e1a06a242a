"""The training loop: sample -> judge -> credit -> learn, stage after stage.

`train` is a generator: logging, evaluation and saving happen around it, in whoever iterates.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from scorl.engines.engine import Engine
from scorl.engines.torch import TorchEngine
from scorl.errors import GuardError
from scorl.learner import Learner
from scorl.learner.balance import share_of_rank
from scorl.model.policy import Policy
from scorl.settings import LearnerSettings, Sampling
from scorl.tasks.task import Task
from scorl.training.batches import Batches, Leg, legs
from scorl.training.collected import MemoryRolloutStore, RolloutStore
from scorl.training.stage import Stage
from scorl.training.step import Step

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
        policy: carries over from stage to stage; the reference moves only where a stage resets it.
        task: draws problems and judges.
        stages: pursued in order.
        seed: of problems and draws, which depend on (step, problem, sample, place in the conversation) alone.
        split: the task's split that problems are drawn from.
        sampling: temperature and token limits.
        engine: writes the responses; by default the policy itself through `TorchEngine`.
        learner: by default a new one with `LearnerSettings()`; one that has made updates continues behind them. Its
            ranks share every step's problems, and yield the same steps.
        store: keeps what a stage collects; by default in memory.

    Raises:
        GuardError: the run would train on nonsense; the message says why.
    """
    sampling = sampling or Sampling()
    total = sum(stage.steps for stage in stages)
    learner = learner or Learner(policy, LearnerSettings(), total=total, temperature=sampling.temperature)
    store = store or MemoryRolloutStore()
    engine = engine or TorchEngine(policy)
    learner.settings = learner.settings.with_cap_for(engine.arithmetic)  # a recipe has decided that already
    batches = Batches(task, engine, learner, sampling, seed, split, store)
    for leg in legs(stages):
        if leg.end <= learner.updates:
            continue
        if leg.first_step >= learner.updates:
            _enter(leg.stage, learner)
        for batch in batches.of(leg):
            began = time.perf_counter()
            share = share_of_rank(batch.examples, learner.ranks.rank, learner.ranks.size)
            progress = learner.update(share, engine.arithmetic)
            _check_reference(leg, learner)
            seconds = {**batch.seconds, "learn": time.perf_counter() - began}
            learner.adaptive = batch.objective.after(progress.kl).adaptive
            yield Step(leg.stage, batch, progress, seconds)


def _check_reference(leg: Leg, learner: Learner) -> None:
    """Catches a reference that is set anew within a stage: it is to stand still there."""
    if learner.reference_from > leg.first_step:
        raise GuardError(
            f"the reference was set anew before step {learner.reference_from}, within stage {leg.stage.label}: the KL "
            "would be to a moving target. Who calls reset_reference?"
        )


def _enter(stage: Stage, learner: Learner) -> None:
    learner.adaptive = {}
    if stage.reset_reference:
        learner.reset_reference()
    if stage.reset_optimizer:
        learner.reset_optimizer()
