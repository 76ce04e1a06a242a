"""Evaluations before, during and after a run."""

from __future__ import annotations

from collections.abc import Callable

from scorl.distributed.ranks import Ranks
from scorl.engines.engine import Engine
from scorl.evaluation import Evaluation, evaluate
from scorl.rollout import OfflineAttempts
from scorl.run.directory import RunDirectory
from scorl.settings import Evaluations
from scorl.tasks.task import Task

__all__ = ["record_evaluation"]


def record_evaluation(
    directory: RunDirectory,
    step: int,
    engine: Engine,
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
    """Evaluate the policy as it stands after `step` steps and record that. All ranks take part.

    Args:
        directory: of the run.
        step: updates made.
        engine: samples from the policy.
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

    def measured(offline: OfflineAttempts | None) -> Evaluation:
        return evaluate(
            engine,
            task,
            model=model,
            split=wanted.split,
            attempts=attempts,
            samples=wanted.samples,
            temperature=wanted.temperature,
            max_tokens=max_tokens,
            limit=wanted.problems,
            seed=seed,
            offline=offline,
            progress=progress,
            ranks=ranks,
        )

    latest = {**measured(None).summary(), "step": step}
    if reference is not None:
        fixed = measured(OfflineAttempts(reference)).summary()
        latest["fixed"] = {name: fixed[name] for name in ("metrics", "mcnemar_p", "outcomes")}
    directory.record_evaluation(wanted.split, latest)
