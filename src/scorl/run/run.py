"""A run: the training loop with everything that is written around it, in a directory that other tools can read.

After a kill the run resumes from its newest checkpoint; what was written behind that is cut off and written again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from scorl.engines.engine import Engine
from scorl.engines.reference import ReferenceEngine
from scorl.errors import UserError
from scorl.learner import Learner
from scorl.metrics import describe_alarms, find_alarms
from scorl.model.policy import Policy
from scorl.run import checkpoint
from scorl.run.collected import FileRolloutStore
from scorl.run.directory import RunDirectory
from scorl.run.evaluations import record_evaluation
from scorl.run.files import Record, response_records
from scorl.run.signals import interruptible
from scorl.settings import Checkpoints, Evaluations, LearnerSettings, Sampling
from scorl.tasks.task import Task
from scorl.training.collected import RolloutStore
from scorl.training.loop import train
from scorl.training.stage import Stage
from scorl.training.step import Step

__all__ = ["OnProgress", "Plan", "Result", "perform"]

OnProgress = Callable[[str, int, int], None]
"""Is told what is under way between two steps, and (done, in all)."""


@dataclass(frozen=True)
class Plan:
    """All that a run needs, built."""

    model: str
    policy: Policy
    engine: Engine
    task: Task
    stages: tuple[Stage, ...]
    recipe: str
    """As it is to be written down."""
    seed: int = 0
    split: str = "train"
    sampling: Sampling = field(default_factory=Sampling)
    learner: LearnerSettings = field(default_factory=LearnerSettings)
    evaluations: Evaluations = field(default_factory=Evaluations)
    checkpoints: Checkpoints = field(default_factory=Checkpoints)
    parallel: Literal["ddp", "fsdp2"] = "ddp"
    """What of the weights each of several ranks keeps."""

    @property
    def total(self) -> int:
        """Steps of all stages."""
        return sum(stage.steps for stage in self.stages)

    def made(self, learner: Learner, store: RolloutStore | None = None) -> Iterator[Step]:
        """The steps as they are made by a learner, and nothing written around them; see `scorl.train`."""
        return train(
            self.policy,
            self.task,
            self.stages,
            seed=self.seed,
            split=self.split,
            sampling=self.sampling,
            engine=self.engine,
            learner=learner,
            store=store,
        )


@dataclass(frozen=True)
class Result:
    """How a run ended."""

    directory: Path
    steps: int
    interrupted: bool
    evaluations: dict[str, Any]
    """The latest one of each split; see `RunDirectory.evaluations`."""
    alarms: list[str]
    """What went wrong on the way, a sentence each."""


def perform(
    plan: Plan,
    directory: RunDirectory,
    on_step: Callable[[Record], None] = lambda record: None,
    on_progress: OnProgress = lambda what, done, total: None,
) -> Result:
    """Carry a plan out in a directory, from the newest checkpoint where there is one.

    Args:
        plan: what to do.
        directory: of the run, whose ranks carry it out together, all by the same plan.
        on_step: is given the record of each step when it is written.
        on_progress: is told how far an evaluation or a collection is.
    """
    with directory.lock():
        directory.start(plan.recipe)
        learner = Learner(
            plan.policy,
            plan.learner,
            total=plan.total,
            temperature=plan.sampling.temperature,
            ranks=directory.ranks,
            parallel=plan.parallel,
        )
        if checkpoint.load(directory, learner) > plan.total:
            raise UserError(f"{directory.path}: has made {learner.updates} steps, more than the recipe's {plan.total}")
        directory.cut(learner.updates)
        with interruptible() as interrupted:
            finished = _finish(_Run(plan, directory, learner, on_step, on_progress, interrupted))
        records = directory.steps()
        return Result(directory.path, learner.updates, not finished, directory.evaluations(), describe_alarms(records))


@dataclass(frozen=True)
class _Run:
    """A plan under way."""

    plan: Plan
    directory: RunDirectory
    learner: Learner
    on_step: Callable[[Record], None]
    on_progress: OnProgress
    asked_to_stop: Callable[[], bool]

    def interrupted(self) -> bool:
        """Whether one of the ranks was asked to stop; all of them ask together."""
        return self.learner.ranks.any(self.asked_to_stop(), "whether to stop")

    def interruptible(self, what: str) -> Callable[[int, int], None]:
        """Reports the progress of work between two steps, which may be interrupted before it is done."""

        def report(done: int, total: int) -> None:
            self.on_progress(what, done, total)
            if self.interrupted():
                raise _Interrupted

        return report


class _Interrupted(Exception):  # noqa: N818 - not an error
    """The run was asked to stop between two steps."""


def _finish(run: _Run) -> bool:
    """Evaluate, step and save until the end; False if it was interrupted before."""
    plan, directory, learner = run.plan, run.directory, run.learner
    records = directory.steps()
    try:
        _evaluate_if_due(run)
        for step in plan.made(learner, FileRolloutStore(directory, run.interruptible("collection"))):
            records.append(_step_record(step, records))
            directory.record_step(records[-1], _response_records(step))
            run.on_step(records[-1])
            done = learner.updates == plan.total
            interrupted = run.interrupted() and not done
            if interrupted or done or learner.updates % plan.checkpoints.save_steps == 0:
                _save(run, records)
            if interrupted:
                return False
            _evaluate_if_due(run)
    except _Interrupted:
        if learner.updates > _last_saved(directory):
            _save(run, records)
        return False
    return True


def _step_record(step: Step, before: Sequence[Record]) -> Record:
    """The step's record, with the alarms that it raises behind the records before it."""
    record = step.line()
    return record | {"alarms": [asdict(alarm) for alarm in find_alarms([*before, record])]}


def _response_records(step: Step) -> list[Record]:
    return [
        record
        for example in step.examples
        for record in response_records(step.index, example.trajectory, example.credits)
    ]


def _save(run: _Run, records: Sequence[Record]) -> None:
    since = _last_saved(run.directory)
    checkpoint.save(run.directory, run.learner, _training_reward(records[since:]))
    checkpoint.prune(run.directory, run.plan.checkpoints.save_total_limit)


def _last_saved(directory: RunDirectory) -> int:
    return max(directory.saved_steps(), default=0)


def _training_reward(records: Sequence[Record]) -> float | None:
    """The mean reward of the last attempts over some steps; None where nothing was sampled."""
    last = [[record[key] for key in sorted(record) if key.startswith("reward_t")][-1] for record in records]
    rewards = [reward for reward in last if reward is not None]
    return sum(rewards) / len(rewards) if rewards else None


def _evaluate_if_due(run: _Run) -> None:
    """Evaluate before the first step, after the last, and every so many between; once, however often it resumes."""
    plan, wanted, done = run.plan, run.plan.evaluations, run.learner.updates
    due = done in (0, plan.total) or (wanted.eval_steps > 0 and done % wanted.eval_steps == 0)
    if not due or run.directory.evaluated(wanted.split, done):
        return
    with run.learner.unsharded(reference=wanted.fixed):
        record_evaluation(
            run.directory,
            done,
            plan.engine,
            plan.task,
            wanted,
            model=plan.model,
            attempts=max([2, *(stage.attempts for stage in plan.stages)]),
            max_tokens=plan.sampling.max_tokens,
            seed=plan.seed,
            reference=ReferenceEngine(plan.engine, run.learner.reference) if wanted.fixed else None,
            progress=run.interruptible("evaluation"),
            ranks=run.directory.ranks,
        )
