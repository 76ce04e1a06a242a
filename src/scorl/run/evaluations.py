"""evaluation.json: how the policy stands before, during and after a run.

{split: the latest evaluation, with "step" and the "history" of all}
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scorl.distributed.ranks import Ranks
from scorl.engines.engine import Engine
from scorl.evaluation import Evaluation, Summary, evaluate
from scorl.model.chat import Chat
from scorl.rollout import Given
from scorl.run.files import read_evaluations, write_text
from scorl.settings import Evaluations
from scorl.tasks.task import Task

__all__ = ["cut_evaluations", "evaluated_at", "record_evaluation"]


def evaluated_at(directory: Path, split: str, step: int) -> bool:
    """Whether the policy was evaluated on a split after so many steps."""
    history = (read_evaluations(directory) or {}).get(split, {}).get("history", [])
    return any(entry["step"] == step for entry in history)


def record_evaluation(
    directory: Path,
    step: int,
    engine: Engine,
    chat: Chat,
    task: Task,
    wanted: Evaluations,
    *,
    model: str,
    attempts: int,
    max_tokens: int,
    seed: int,
    reference: Engine | None,
    progress: Callable[[int, int], None],
    ranks: Ranks,
) -> None:
    """Evaluate the policy as it stands after `step` steps and add that to evaluation.json. All ranks take part.

    Args:
        directory: of the run.
        step: updates made.
        engine: samples from the policy.
        chat: its chat.
        task: the task.
        wanted: split, problems, samples, temperature.
        model: its name in the result.
        attempts: attempts a problem.
        max_tokens: the longest response.
        seed: of draws at a temperature above 0.
        reference: where given, second attempts are measured on its first attempts too, under `fixed`.
        progress: is told (problems done, problems in all).
        ranks: who shares the problems.
    """

    def measured(given: Given | None) -> Evaluation:
        return evaluate(
            engine,
            chat,
            task,
            model=model,
            split=wanted.split,
            attempts=attempts,
            samples=wanted.samples,
            temperature=wanted.temperature,
            max_tokens=max_tokens,
            limit=wanted.problems,
            seed=seed,
            given=given,
            progress=progress,
            ranks=ranks,
        )

    own, on_fixed = measured(None), None if reference is None else measured(Given(reference))
    if ranks.main:
        _add(directory, wanted.split, step, own.summary(), None if on_fixed is None else on_fixed.summary())


def _add(directory: Path, split: str, step: int, own: Summary, fixed: Summary | None) -> None:
    """Make this the latest evaluation of a split."""
    latest = {**own, "step": step}
    if fixed is not None:
        latest["fixed"] = {name: fixed[name] for name in ("metrics", "mcnemar_p", "outcomes")}
    known = read_evaluations(directory) or {}
    history = known.get(split, {}).get("history", [])
    _write(directory, {**known, split: {**latest, "history": [*history, latest]}})


def cut_evaluations(directory: Path, done: int) -> None:
    """Drop what was measured after `done` steps."""
    evaluations = read_evaluations(directory) or {}
    for split, latest in list(evaluations.items()):
        history = [entry for entry in latest["history"] if entry["step"] <= done]
        evaluations[split] = {**history[-1], "history": history} if history else None
    if evaluations:
        _write(directory, {split: latest for split, latest in evaluations.items() if latest})


def _write(directory: Path, evaluations: dict[str, Any]) -> None:
    write_text(directory / "evaluation.json", json.dumps(evaluations, indent=1) + "\n")
