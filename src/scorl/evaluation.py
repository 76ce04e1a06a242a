"""Evaluation: every problem of a split gets all its turns, and every metric its interval."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from scorl import metrics
from scorl.distributed.ranks import ALONE, Ranks
from scorl.engines.engine import Engine
from scorl.errors import UserError
from scorl.rollout import Draws, OfflineAttempts, rollout
from scorl.seeds import derive
from scorl.settings import Sampling
from scorl.tasks.task import Task
from scorl.trajectory import Group, Problem

__all__ = ["Evaluation", "Summary", "evaluate"]

Summary = dict[str, Any]
"""An evaluation as JSON: what it was of, `metrics` as {name: {value, low, high}}, `mcnemar_p`, `outcomes`."""

CHUNK = 64
"""Problems of a rank between two calls of `progress`; results do not depend on it."""


@dataclass(frozen=True)
class Evaluation:
    """The judged attempts of one evaluation, and how they were made."""

    model: str
    task: str
    split: str
    attempts: int
    temperature: float
    samples: int
    max_tokens: int
    seed: int
    groups: tuple[Group, ...]

    def summary(self) -> Summary:
        """The evaluation as JSON, without its texts; rates are fractions, undefined ones null.

        `mcnemar_p` is that of Delta(t1, t2), null for one attempt. `outcomes` says in a word or two what
        happened to each problem, and `edit_ratios` how much its text changed on average: what a paired comparison
        with another evaluation needs.
        """
        return {
            "model": self.model,
            "task": self.task,
            "split": self.split,
            "problems": len(self.groups),
            "attempts": self.attempts,
            "temperature": self.temperature,
            "samples": self.samples,
            "max_tokens": self.max_tokens,
            "seed": self.seed,
            "metrics": {k: asdict(interval) for k, interval in metrics.measure_intervals(self.groups).items()},
            "mcnemar_p": metrics.delta_p(self.groups),
            "outcomes": metrics.outcomes(self.groups),
            "edit_ratios": metrics.edit_ratios(self.groups),
        }


def evaluate(
    engine: Engine,
    task: Task,
    *,
    model: str,
    split: str = "test",
    attempts: int = 2,
    samples: int = 1,
    temperature: float = 0.0,
    max_tokens: int = 256,
    limit: int | None = None,
    seed: int = 0,
    offline: OfflineAttempts | None = None,
    progress: Callable[[int, int], None] | None = None,
    ranks: Ranks = ALONE,
) -> Evaluation:
    """Samples and judges `attempts` turns of `samples` samples of the first `limit` problems of a split.

    `model` names the model in the result; `offline` writes the first attempts in its place; `progress` is told
    (problems done, problems in all); `ranks` share the problems, and each has the whole result.

    Raises:
        UserError: the task has no such split, or there is no problem to evaluate on.
    """
    problems = task.split(split).take(limit)
    if not problems:
        raise UserError(f"no problem to evaluate on: task '{task.name}', split '{split}', limit {limit}")

    def draw_seed(problem: Problem, sample: int, place: int) -> int:
        return derive(seed, "evaluate", problem.id, sample, place)

    groups: list[Group] = []
    for start in range(0, len(problems), CHUNK * ranks.size):
        chunk = problems[start : start + CHUNK * ranks.size]
        mine = ranks.shard(len(chunk))
        before = chunk[: mine.start]
        draws = Draws(draw_seed, samples, Sampling(temperature, max_tokens), offline=offline, before=before)
        share = rollout(engine, task, chunk[mine], task.turns(attempts), draws)
        groups += ranks.all_concat(share, "a part of the evaluation")
        if progress:
            progress(len(groups), len(problems))
    return Evaluation(model, task.name, split, attempts, temperature, samples, max_tokens, seed, tuple(groups))
