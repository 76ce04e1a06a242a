"""A run: the training loop with everything that is written around it, in a directory that other tools can read.

    recipe.yaml        the resolved recipe, with versions and seeds
    steps.jsonl        one line a step
    attempts/          step-000012.jsonl: one line an attempt
    checkpoints/       step-N: see scorl.checkpoint
    evaluation.json    {split: the latest evaluation, with "step" and the "history" of all}
    report.html        for people; `scorl train` writes it at the end

After a kill the run goes on from its newest checkpoint; what was written behind that is cut off and written again.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from scorl import checkpoint
from scorl.engines.engine import Engine
from scorl.errors import UserError
from scorl.evaluation import Summary, evaluate
from scorl.learner import Learner
from scorl.lines import attempt_line, read_lines
from scorl.policy import Policy
from scorl.settings import Checkpoints, Evaluations, LearnerSettings, Sampling
from scorl.sources import saved_steps
from scorl.stage import Stage
from scorl.tasks.task import Task
from scorl.training import Step, train

__all__ = ["Plan", "Result", "perform", "write_text"]


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

    @property
    def total(self) -> int:
        """Steps of all stages."""
        return sum(stage.steps for stage in self.stages)


@dataclass(frozen=True)
class Result:
    """How a run ended."""

    directory: Path
    steps: int
    interrupted: bool
    evaluation: dict[str, Any] | None
    """What `evaluation.json` holds."""


def perform(
    plan: Plan,
    directory: Path,
    report: Callable[[dict[str, Any]], None] = lambda line: None,
    watch: Callable[[int, int], None] | None = None,
) -> Result:
    """Carry a plan out in a directory, going on from the newest checkpoint where there is one.

    Args:
        plan: what to do.
        directory: the run directory.
        report: is given each line of `steps.jsonl` as it is written.
        watch: is told (problems done, problems in all) while the policy is evaluated.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if not (directory / "evaluation.json").exists():  # what every run writes first; until then nothing depends on it
        write_text(directory / "recipe.yaml", plan.recipe)
    (directory / "attempts").mkdir(exist_ok=True)
    learner = Learner(plan.policy, plan.learner, total=plan.total, temperature=plan.sampling.temperature)
    if checkpoint.load(directory, learner) > plan.total:
        raise UserError(f"{directory}: has made {learner.updates} steps, more than the recipe's {plan.total}")
    _cut(directory, learner.updates)
    with _interruptible() as asked:
        finished = _go_on(plan, directory, learner, report, watch, asked)
    return Result(directory, learner.updates, not finished, _evaluations(directory))


def _go_on(
    plan: Plan,
    directory: Path,
    learner: Learner,
    report: Callable[[dict[str, Any]], None],
    watch: Callable[[int, int], None] | None,
    asked: Callable[[], bool],
) -> bool:
    """Evaluate, step and save until the end; False if it was asked to stop before."""
    try:
        _evaluate_if_due(plan, directory, learner.updates, watch, asked)
        for step in _steps(plan, learner):
            report(_record(directory, step))
            stop = asked() and learner.updates < plan.total
            if stop or learner.updates == plan.total or learner.updates % plan.checkpoints.every == 0:
                _save(plan, directory, learner)
            if stop:
                return False
            _evaluate_if_due(plan, directory, learner.updates, watch, asked)
    except _Asked:
        if learner.updates > max(saved_steps(directory), default=0):
            _save(plan, directory, learner)
        return False
    return True


class _Asked(Exception):  # noqa: N818 - not an error
    """The run was asked to stop while it evaluated."""


def _save(plan: Plan, directory: Path, learner: Learner) -> None:
    before = max(saved_steps(directory), default=0)
    checkpoint.save(directory, learner, _training_reward(directory, before))
    checkpoint.prune(directory, plan.checkpoints.keep)


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all; a lone surrogate is written as its escape, which JSON understands."""
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(text, encoding="utf-8", errors="backslashreplace")
    os.replace(draft, path)


def _steps(plan: Plan, learner: Learner) -> Iterator[Step]:
    return train(
        plan.policy,
        plan.task,
        plan.stages,
        seed=plan.seed,
        split=plan.split,
        sampling=plan.sampling,
        engine=plan.engine,
        learner=learner,
    )


def _record(directory: Path, step: Step) -> dict[str, Any]:
    """Write a step's attempts and its line."""
    attempts = [
        json.dumps(attempt_line(step.index, attempt, lesson.trajectory, credit), ensure_ascii=False)
        for lesson in step.lessons
        for attempt, credit in zip(lesson.trajectory.attempts, lesson.credits, strict=True)
    ]
    write_text(directory / "attempts" / f"step-{step.index:06d}.jsonl", "\n".join(attempts) + "\n")
    line = step.line()
    with (directory / "steps.jsonl").open("a", encoding="utf-8") as handle:
        handle.write(json.dumps(line) + "\n")
    return line


def _training_reward(directory: Path, since: int) -> float | None:
    """The mean reward of the last attempts over the steps from `since` on; None where nothing was sampled."""
    lines = [line for line in read_lines(directory / "steps.jsonl") if line["step"] >= since]
    rewards = [[line[key] for key in sorted(line) if key.startswith("reward_t")][-1] for line in lines]
    known = [reward for reward in rewards if reward is not None]
    return sum(known) / len(known) if known else None


def _cut(directory: Path, done: int) -> None:
    """Cut off what lies behind the checkpoint, so that it is written again and never twice."""
    path = directory / "steps.jsonl"
    if path.exists():
        kept = [line for line in read_lines(path) if line["step"] < done]
        write_text(path, "".join(json.dumps(line) + "\n" for line in kept))
    for file in (directory / "attempts").glob("step-*.jsonl"):
        if int(file.stem.removeprefix("step-")) >= done:
            file.unlink()
    evaluations = _evaluations(directory) or {}
    for split, latest in list(evaluations.items()):
        history = [entry for entry in latest["history"] if entry["step"] <= done]
        evaluations[split] = {**history[-1], "history": history} if history else None
    if evaluations:
        _write_evaluations(directory, {split: latest for split, latest in evaluations.items() if latest})


def _evaluate_if_due(
    plan: Plan,
    directory: Path,
    done: int,
    watch: Callable[[int, int], None] | None,
    asked: Callable[[], bool],
) -> None:
    """Evaluate before the first step, after the last, and every so many between."""
    wanted = plan.evaluations
    due = done in (0, plan.total) or (wanted.every > 0 and done % wanted.every == 0)
    known = _evaluations(directory) or {}
    history: list[Summary] = known.get(wanted.split, {}).get("history", [])
    if not due or any(entry["step"] == done for entry in history):
        return

    def progress(problems: int, total: int) -> None:
        if watch:
            watch(problems, total)
        if asked():
            raise _Asked

    result = evaluate(
        plan.engine,
        plan.policy.chat,
        plan.task,
        model=plan.model,
        split=wanted.split,
        attempts=max(2, *(stage.attempts for stage in plan.stages)),
        samples=wanted.samples,
        temperature=wanted.temperature,
        max_tokens=plan.sampling.max_tokens,
        limit=wanted.problems,
        seed=plan.seed,
        progress=progress,
    )
    latest = {**result.summary(), "step": done}
    _write_evaluations(directory, {**known, wanted.split: {**latest, "history": [*history, latest]}})


def _evaluations(directory: Path) -> dict[str, Any] | None:
    path = directory / "evaluation.json"
    found: dict[str, Any] | None = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    return found


def _write_evaluations(directory: Path, evaluations: dict[str, Any]) -> None:
    write_text(directory / "evaluation.json", json.dumps(evaluations, indent=1) + "\n")


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """The first Ctrl-C or SIGTERM asks the run to save after its step; a second one ends it at once."""
    asked: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    here = threading.current_thread() is threading.main_thread()  # elsewhere signals cannot be caught
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM) if here}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
