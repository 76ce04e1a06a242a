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
    (directory / "attempts").mkdir(parents=True, exist_ok=True)
    write_text(directory / "recipe.yaml", plan.recipe)
    learner = Learner(plan.policy, plan.learner, total=plan.total, temperature=plan.sampling.temperature)
    if checkpoint.load(directory, learner) > plan.total:
        raise UserError(f"{directory}: has made {learner.updates} steps, more than the recipe's {plan.total}")
    _cut(directory, learner.updates)
    _evaluate_if_due(plan, directory, learner.updates, watch)
    with _interruptible() as asked:
        rewards = _rewards(directory)
        for step in _steps(plan, learner):
            line = _record(directory, step)
            report(line)
            rewards.append(_reward(step))
            last = learner.updates == plan.total
            if asked() or last or learner.updates % plan.checkpoints.every == 0:
                known = [r for r in rewards[-plan.checkpoints.every :] if r is not None]
                checkpoint.save(directory, learner, sum(known) / len(known) if known else None)
                checkpoint.prune(directory, plan.checkpoints.keep)
            if asked():
                return Result(directory, learner.updates, True, _evaluations(directory))
            _evaluate_if_due(plan, directory, learner.updates, watch)
    return Result(directory, learner.updates, False, _evaluations(directory))


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(text, encoding="utf-8")
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


def _reward(step: Step) -> float | None:
    """The mean reward of the last attempts, of a step that sampled any."""
    line = step.line()
    value: float | None = line[f"accuracy_t{step.stage.attempts}"]
    return value


def _rewards(directory: Path) -> list[float | None]:
    """The training rewards so far, read back."""
    path = directory / "steps.jsonl"
    lines = list(read_lines(path)) if path.exists() else []
    return [line["accuracy_t2"] if line["accuracy_t2"] is not None else line["accuracy_t1"] for line in lines]


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


def _evaluate_if_due(plan: Plan, directory: Path, done: int, watch: Callable[[int, int], None] | None) -> None:
    """Evaluate before the first step, after the last, and every so many between."""
    asked = plan.evaluations
    due = done in (0, plan.total) or (asked.every > 0 and done % asked.every == 0)
    known = _evaluations(directory) or {}
    history: list[Summary] = known.get(asked.split, {}).get("history", [])
    if not due or any(entry["step"] == done for entry in history):
        return
    result = evaluate(
        plan.engine,
        plan.policy.chat,
        plan.task,
        model=plan.model,
        split=asked.split,
        attempts=max(2, *(stage.attempts for stage in plan.stages)),
        samples=asked.samples,
        temperature=asked.temperature,
        max_tokens=plan.sampling.max_tokens,
        limit=asked.problems,
        seed=plan.seed,
        progress=watch,
    )
    latest = {**result.summary(), "step": done}
    _write_evaluations(directory, {**known, asked.split: {**latest, "history": [*history, latest]}})


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

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
