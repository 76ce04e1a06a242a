"""A run: the training loop with everything that is written around it, in a directory that other tools can read.

    recipe.yaml        the resolved recipe, with versions and seeds
    steps.jsonl        one line a step
    attempts/          step-000012.jsonl: one line an attempt
    checkpoints/       step-N: see scorl.run.checkpoint
    collected/         what stages of STaR and Pair-SFT sampled: see scorl.run.collected
    evaluation.json    {split: the latest evaluation, with "step" and the "history" of all}
    report.html        for people; `scorl train` writes it at the end

After a kill the run goes on from its newest checkpoint; what was written behind that is cut off and written again.
Of several ranks the first alone touches the directory, but for the shards of a checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from scorl.distributed.ranks import ALONE, Ranks
from scorl.engines.engine import Engine
from scorl.engines.reference import ReferenceEngine
from scorl.errors import UserError
from scorl.learner import Learner
from scorl.metrics import alarms, raised
from scorl.model.loading import saved_steps
from scorl.model.policy import Policy
from scorl.run import checkpoint
from scorl.run.collected import FileRolloutStore
from scorl.run.evaluations import cut_evaluations, evaluated_at, record_evaluation
from scorl.run.files import Line, attempt_line, read_evaluations, read_lines, write_text
from scorl.run.signals import alone, interruptible
from scorl.settings import Checkpoints, Evaluations, LearnerSettings, Sampling
from scorl.tasks.task import Task
from scorl.training.collected import RolloutStore
from scorl.training.loop import train
from scorl.training.stage import Stage
from scorl.training.step import Step

__all__ = ["Plan", "Result", "Watch", "perform"]

Watch = Callable[[str, int, int], None]
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
    """What `recipe.yaml` says."""
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
    evaluation: dict[str, Any] | None
    """What `evaluation.json` holds."""
    alarms: list[str]
    """What went wrong on the way, a sentence each."""


def perform(
    plan: Plan,
    directory: Path,
    report: Callable[[Line], None] = lambda line: None,
    watch: Watch = lambda what, done, total: None,
    ranks: Ranks = ALONE,
) -> Result:
    """Carry a plan out in a directory, going on from the newest checkpoint where there is one.

    Args:
        plan: what to do.
        directory: the run directory.
        report: is given each line of `steps.jsonl` as it is written, on rank 0.
        watch: is told how far an evaluation or a collection is.
        ranks: who carries it out together, all by the same plan in the same directory.
    """
    with ExitStack() as held:
        ranks.broadcast(lambda: _open(directory, plan, held), "the run directory")
        learner = Learner(
            plan.policy,
            plan.learner,
            total=plan.total,
            temperature=plan.sampling.temperature,
            ranks=ranks,
            parallel=plan.parallel,
        )
        if checkpoint.load(directory, learner) > plan.total:
            raise UserError(f"{directory}: has made {learner.updates} steps, more than the recipe's {plan.total}")
        ranks.broadcast(lambda: _cut(directory, learner.updates), "the run directory")
        with interruptible() as asked:
            finished = _go_on(_Run(plan, directory, learner, report, watch, asked))
        end = ranks.broadcast(lambda: (read_evaluations(directory), raised(_lines(directory))), "the end of the run")
    return Result(directory, learner.updates, not finished, *end)


def _open(directory: Path, plan: Plan, held: ExitStack) -> None:
    """Hold the directory, and write what stands in it from the start."""
    directory.mkdir(parents=True, exist_ok=True)
    held.enter_context(alone(directory))
    if not (directory / "evaluation.json").exists():  # what every run writes first; until then nothing depends on it
        write_text(directory / "recipe.yaml", plan.recipe)
    (directory / "attempts").mkdir(exist_ok=True)


@dataclass(frozen=True)
class _Run:
    """A plan under way."""

    plan: Plan
    directory: Path
    learner: Learner
    report: Callable[[Line], None]
    watch: Watch
    asked: Callable[[], bool]

    @property
    def ranks(self) -> Ranks:
        """Who carries it out."""
        return self.learner.ranks

    def stopped(self) -> bool:
        """Whether one of the ranks was asked to stop."""
        return self.ranks.any(self.asked(), "whether to stop")

    def tick(self, what: str) -> Callable[[int, int], None]:
        """Progress of what may be interrupted before it is done."""

        def tell(done: int, total: int) -> None:
            self.watch(what, done, total)
            if self.stopped():
                raise _Asked

        return tell


class _Asked(Exception):  # noqa: N818 - not an error
    """The run was asked to stop between two steps."""


def _go_on(run: _Run) -> bool:
    """Evaluate, step and save until the end; False if it was asked to stop before."""
    plan, learner, ranks = run.plan, run.learner, run.ranks
    lines = _lines(run.directory) if ranks.main else []
    try:
        _evaluate_if_due(run, learner.updates)
        for step in _steps(run):
            if ranks.main:
                lines.append(_line(step, lines))
                _record(run.directory, step, lines[-1])
                run.report(lines[-1])
            stop = run.stopped() and learner.updates < plan.total
            if stop or learner.updates == plan.total or learner.updates % plan.checkpoints.save_steps == 0:
                _save(run)
            if stop:
                return False
            _evaluate_if_due(run, learner.updates)
    except _Asked:
        if learner.updates > ranks.broadcast(lambda: _last_saved(run.directory), "the newest checkpoint"):
            _save(run)
        return False
    return True


def _save(run: _Run) -> None:
    directory = run.directory
    reward = _training_reward(directory, _last_saved(directory)) if run.ranks.main else None
    checkpoint.save(directory, run.learner, reward)
    if run.ranks.main:
        checkpoint.prune(directory, run.plan.checkpoints.save_total_limit)


def _last_saved(directory: Path) -> int:
    return max(saved_steps(directory), default=0)


def _steps(run: _Run) -> Iterator[Step]:
    return run.plan.made(run.learner, FileRolloutStore(run.directory / "collected", run.tick("collection"), run.ranks))


def _line(step: Step, before: Sequence[Line]) -> Line:
    """The step's line, with the alarms that it raises behind the lines before it."""
    line = step.line()
    return line | {"alarms": [asdict(alarm) for alarm in alarms([*before, line])]}


def _record(directory: Path, step: Step, line: Line) -> None:
    """Write a step's attempts and its line."""
    attempts = [
        json.dumps(attempt_line(step.index, attempt, example.trajectory, credit), ensure_ascii=False)
        for example in step.examples
        for attempt, credit in zip(example.trajectory.attempts, example.credits, strict=True)
    ]
    write_text(directory / "attempts" / f"step-{step.index:06d}.jsonl", "\n".join(attempts) + "\n")
    with (directory / "steps.jsonl").open("a", encoding="utf-8") as handle:
        handle.write(json.dumps(line) + "\n")


def _lines(directory: Path) -> list[Line]:
    path = directory / "steps.jsonl"
    return list(read_lines(path)) if path.exists() else []


def _training_reward(directory: Path, since: int) -> float | None:
    """The mean reward of the last attempts over the steps from `since` on; None where nothing was sampled."""
    lines = [line for line in _lines(directory) if line["step"] >= since]
    rewards = [[line[key] for key in sorted(line) if key.startswith("reward_t")][-1] for line in lines]
    known = [reward for reward in rewards if reward is not None]
    return sum(known) / len(known) if known else None


def _cut(directory: Path, done: int) -> None:
    """Cut off what lies behind the checkpoint, so that it is written again and never twice."""
    path = directory / "steps.jsonl"
    if path.exists():
        write_text(path, "".join(json.dumps(line) + "\n" for line in _lines(directory) if line["step"] < done))
    for file in (directory / "attempts").glob("step-*.jsonl"):
        if int(file.stem.removeprefix("step-")) >= done:
            file.unlink()
    cut_evaluations(directory, done)


def _evaluate_if_due(run: _Run, done: int) -> None:
    """Evaluate before the first step, after the last, and every so many between."""
    plan, wanted = run.plan, run.plan.evaluations
    due = done in (0, plan.total) or (wanted.eval_steps > 0 and done % wanted.eval_steps == 0)
    if not due or run.ranks.broadcast(lambda: evaluated_at(run.directory, wanted.split, done), "what was evaluated"):
        return
    with run.learner.whole(reference=wanted.fixed):
        record_evaluation(
            run.directory,
            done,
            plan.engine,
            plan.policy.chat,
            plan.task,
            wanted,
            model=plan.model,
            attempts=max([2, *(stage.attempts for stage in plan.stages)]),
            max_tokens=plan.sampling.max_tokens,
            seed=plan.seed,
            reference=ReferenceEngine(plan.engine, run.learner.reference) if wanted.fixed else None,
            progress=run.tick("evaluation"),
            ranks=run.ranks,
        )
