"""A run: the training loop with everything that is written around it, in a directory that other tools can read.

After a kill the run resumes from its newest checkpoint; what was written behind that is cut off and written again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scorl.engines.reference import ReferenceEngine
from scorl.errors import GuardError, UserError
from scorl.evaluation import Evaluation, evaluate
from scorl.learner import Learner
from scorl.metrics import describe_alarms, find_alarms
from scorl.rollout import OfflineAttempts
from scorl.run import checkpoint
from scorl.run.build import BuiltRecipe, versions
from scorl.run.collected import FileRolloutStore
from scorl.run.directory import RunDirectory
from scorl.run.files import Record, response_records
from scorl.run.resume import resume
from scorl.run.signals import interruptible
from scorl.training.handover import weights_for_sampling
from scorl.training.step import Step

__all__ = ["OnProgress", "RunResult", "run_recipe"]

OnProgress = Callable[[str, int, int], None]
"""Is told what is under way between two steps, and (done, in all)."""


@dataclass(frozen=True)
class RunResult:
    """How a run ended."""

    directory: Path
    steps: int
    interrupted: bool
    evaluations: dict[str, Any]
    """The latest one of each split; see `RunDirectory.evaluations`."""
    alarms: list[str]
    """What went wrong on the way, a sentence each."""


def run_recipe(
    built: BuiltRecipe,
    directory: RunDirectory,
    on_step: Callable[[Record], None] = lambda record: None,
    on_progress: OnProgress = lambda what, done, total: None,
    notify: Callable[[str], None] = lambda sentence: None,
    on_start: Callable[[int], None] = lambda updates: None,
    on_evaluation: Callable[[Record], None] = lambda latest: None,
    describe: checkpoint.Describe | None = None,
) -> RunResult:
    """Run a recipe in a directory, from the newest checkpoint where there is one.

    Args:
        built: the recipe and what it names.
        directory: of the run, whose ranks carry it out together, each with the same recipe.
        on_step: is given the record of each step when it is written.
        on_progress: is told how far an evaluation or a collection is.
        notify: is told what a resumed run finds that is not as it was.
        on_start: is told of the updates that are made already, before anything is measured.
        on_evaluation: is given each evaluation when it is written.
        describe: writes the model cards of checkpoints, from a folder and the updates before it; None: they have none.
    """
    with directory.lock():
        directory.start(built.recipe.dump(versions(built)))
        learner = built.learner(directory.ranks)
        resume(built, directory, learner, notify)
        on_start(learner.updates)
        with interruptible() as asked_to_stop:
            saver = checkpoint.Saver(directory, learner, built.recipe.checkpoint, describe)
            listeners = (on_step, on_progress, on_evaluation)
            interrupted = not _Run(built, directory, learner, saver, *listeners, asked_to_stop).finish()
        alarms = describe_alarms(directory.steps(), done=not interrupted)
        return RunResult(directory.path, learner.updates, interrupted, directory.evaluations(), alarms)


class _Interrupted(Exception):  # noqa: N818 - not an error
    """The run was asked to stop between two steps."""


@dataclass(frozen=True)
class _Run:
    """A run under way; all ranks make the same calls."""

    built: BuiltRecipe
    directory: RunDirectory
    learner: Learner
    saver: checkpoint.Saver
    on_step: Callable[[Record], None]
    on_progress: OnProgress
    on_evaluation: Callable[[Record], None]
    asked_to_stop: Callable[[], bool]

    def finish(self) -> bool:
        """Evaluate, step and save until the end; False if it was interrupted before. What is saved is on the disk."""
        try:
            done = self.go()
        except (GuardError, UserError):
            self.saver.wait()
            raise
        self.saver.finish()
        return done

    def go(self) -> bool:
        """As `finish`, but a checkpoint may still be written."""
        records = self.directory.steps()
        store = FileRolloutStore(self.directory, self.interruptible("collection"))
        try:
            self.evaluate_if_due()
            for step in self.built.train(self.learner, store):
                _append_record(step, records)
                self.directory.record_step(records[-1], _response_records(step), self.built.recipe.logging)
                self.on_step(records[-1])
                interrupted = self.interrupted() and not self.done
                if interrupted or self.save_is_due:
                    self.save(records)
                if interrupted:
                    return False
                self.evaluate_if_due()
        except _Interrupted:
            self.saver.finish()
            if self.learner.updates > self.last_saved:
                self.save(records)
            return False
        return True

    @property
    def done(self) -> bool:
        """Whether all steps are made."""
        return self.learner.updates == self.built.recipe.steps

    @property
    def save_is_due(self) -> bool:
        """Whether a checkpoint is to be written now."""
        return self.done or self.learner.updates % self.built.recipe.checkpoint.save_steps == 0

    @property
    def due_before(self) -> int:
        """The updates after which the checkpoint before this one was due: not the one that a stop saved between two, or
        the best could be another one than the undisturbed run's."""
        every = self.built.recipe.checkpoint.save_steps
        return (self.learner.updates - 1) // every * every

    @property
    def last_saved(self) -> int:
        """The updates that the newest checkpoint has seen."""
        return max(self.directory.saved_steps(), default=0)

    def interrupted(self) -> bool:
        """Whether one of the ranks was asked to stop."""
        return self.learner.ranks.any(self.asked_to_stop(), "whether to stop")

    def interruptible(self, what: str) -> Callable[[int, int], None]:
        """A listener to the progress of work between two steps, which an interruption ends before it is done."""

        def listen(done: int, total: int) -> None:
            self.on_progress(what, done, total)
            if self.interrupted():
                raise _Interrupted

        return listen

    def save(self, records: Sequence[Record]) -> None:
        """Write a checkpoint, and delete those that need not be kept."""
        self.saver.finish()
        self.saver.save(_training_reward(records, self.due_before))

    def evaluate_if_due(self) -> None:
        """Evaluate before the first step, after the last, and every so many between, each once."""
        settings, updates = self.built.recipe.evaluation, self.learner.updates
        due = updates == 0 or self.done or (settings.eval_steps > 0 and updates % settings.eval_steps == 0)
        if due and not self.directory.evaluated(settings.split, updates):
            with weights_for_sampling(self.built.engine, self.learner, reference=settings.fixed):
                self.evaluate()

    def evaluate(self) -> None:
        """Evaluate the policy as it stands."""
        settings = self.built.recipe.evaluation
        evaluation, updates = self.measure(), self.learner.updates
        latest = {**evaluation.summary(), "step": updates}
        if settings.fixed:
            fixed = self.measure(OfflineAttempts(ReferenceEngine(self.built.engine, self.learner.reference))).summary()
            latest["fixed"] = {name: fixed[name] for name in ("metrics", "mcnemar_p", "outcomes")}
        attempts = [record for group in evaluation.groups for t in group for record in response_records(updates, t)]
        compress = self.built.recipe.logging.compress_attempts
        self.directory.record_evaluation(settings.split, latest, attempts, compress)
        self.saver.describe()
        self.on_evaluation(latest)

    def measure(self, offline: OfflineAttempts | None = None) -> Evaluation:
        """An evaluation, on first attempts of the policy or of another one."""
        recipe = self.built.recipe
        return evaluate(
            self.built.engine,
            self.built.task,
            recipe.evaluation,
            model=recipe.model.path,
            attempts=recipe.attempts,
            max_tokens=recipe.engine.max_tokens,
            seed=recipe.seed,
            offline=offline,
            progress=self.interruptible("evaluation"),
            ranks=self.learner.ranks,
        )


def _append_record(step: Step, records: list[Record]) -> None:
    """Append the step's record, with the alarms that it raises behind the records before it, which are not copied:
    each step takes as long as the first.
    """
    records.append(step.line())
    records[-1] = records[-1] | {"alarms": [asdict(alarm) for alarm in find_alarms(records)]}


def _response_records(step: Step) -> list[Record]:
    return [
        record
        for example in step.examples
        for record in response_records(step.index, example.trajectory, example.credits)
    ]


def _training_reward(records: Sequence[Record], since: int) -> float | None:
    """The mean reward of the last attempts over the steps since one; None where nothing was sampled."""
    newest = [record for record in records if record["step"] >= since]
    last = [[None, *(record[key] for key in record if key.startswith("reward_t"))][-1] for record in newest]
    rewards = [reward for reward in last if reward is not None]
    return sum(rewards) / len(rewards) if rewards else None
