"""Evaluation: every problem of a split gets all its turns, and every metric its interval."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from scorl import metrics
from scorl.distributed.ranks import ALONE, Ranks
from scorl.engines.engine import Engine
from scorl.errors import UserError
from scorl.rollout import Draws, OfflineAttempts, rollout
from scorl.seeds import derive
from scorl.settings import EvaluationSettings, Sampling
from scorl.tasks.task import Task
from scorl.trajectory import Group, Problem

__all__ = ["Evaluation", "Summary", "evaluate"]

Summary = dict[str, Any]
"""An evaluation as JSON: what it was of, `metrics` as {name: {value, low, high}}, `mcnemar_p`, `outcomes`."""

CHUNK = 64
"""Problems that a rank asks at once, or as many as fill its engine's batch; results do not depend on it."""


@dataclass(frozen=True)
class Evaluation:
    """The judged attempts of one evaluation, and how they were made."""

    model: str
    task: str
    settings: EvaluationSettings
    attempts: int
    max_tokens: int
    seed: int
    groups: tuple[Group, ...]
    task_settings: Mapping[str, Any] = field(default_factory=dict)

    def summary(self) -> Summary:
        """The evaluation as JSON, without its texts; rates are fractions, undefined ones null.

        `problems_hash` tells evaluations apart whose problems have the same ids. `mcnemar_p` is that of Delta(t1, t2),
        null for one attempt. `outcomes` says in a word or two what happened to each problem, and `edit_ratios` how
        much its text changed on average: what a paired comparison with another evaluation needs.
        """
        return {
            "model": self.model,
            "task": self.task,
            "task_settings": dict(self.task_settings),
            "split": self.settings.split,
            "problems": len(self.groups),
            "problems_hash": hash_problems(group[0].problem for group in self.groups),
            "attempts": self.attempts,
            "temperature": self.settings.temperature,
            "samples": self.settings.samples,
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
    settings: EvaluationSettings | None = None,
    *,
    model: str = "policy",
    attempts: int = 2,
    max_tokens: int = 256,
    seed: int = 0,
    offline: OfflineAttempts | None = None,
    progress: Callable[[int, int], None] | None = None,
    ranks: Ranks = ALONE,
) -> Evaluation:
    """Sample and judge `attempts` attempts at held-out problems.

    Args:
        engine: samples from the model that is measured.
        task: its problems and its judge.
        settings: which problems, how many samples, and the temperature; when a run evaluates is not read.
        model: what the result calls the model.
        attempts: at each problem.
        max_tokens: the longest response.
        seed: of draws at a temperature above 0.
        offline: who writes first attempts in the model's place.
        progress: is told (problems done, problems in all); one with half of its attempts is half done.
        ranks: share the problems; each has the whole result.

    Raises:
        UserError: the task has no such split, or there is no problem to evaluate on.
    """
    settings = settings or EvaluationSettings()
    problems = task.split(settings.split).take(settings.problems)
    if not problems:
        limit = "" if settings.problems is None else f", of which {settings.problems} are to be taken"
        raise UserError(f"no problem to evaluate on: task '{task.name}', split '{settings.split}'{limit}")

    def draw_seed(problem: Problem, sample: int, place: int) -> int:
        return derive(seed, "evaluate", problem.id, sample, place)

    turns, tell = task.turns(attempts), progress or (lambda done, total: None)
    size = ranks.size * max(CHUNK, engine.batch_size // settings.samples)
    groups: list[Group] = []
    for start in range(0, len(problems), size):
        chunk = problems[start : start + size]
        share = ranks.shard(len(chunk))
        before, sampling = chunk[: share.start], Sampling(settings.temperature, max_tokens)
        draws = Draws(draw_seed, settings.samples, sampling, offline=offline, before=before)

        def written(responses: int, start: int = start, asked: int = len(chunk)) -> None:
            tell(start + asked * responses // (len(turns) + 1), len(problems))

        judged = rollout(engine, task, chunk[share], turns, draws, written)
        groups += ranks.all_concat(judged, "a part of the evaluation")
        tell(len(groups), len(problems))
    return Evaluation(model, task.name, settings, attempts, max_tokens, seed, tuple(groups), task.settings)


def hash_problems(problems: Iterable[Problem]) -> str:
    """A short hash of what is asked and of the gold answers: ids may be the same where these are not.

    Neither system prompt nor examples count, so that two evaluations with others are about the same problems.
    """
    digest = hashlib.blake2b(digest_size=8)
    for problem in problems:
        asked = (problem.id, problem.prompt[-1]["content"], problem.first_attempt, problem.answer)
        # Of a gold answer that is an object the kind alone: its text may have an address in it.
        text = json.dumps(asked, skipkeys=True, default=lambda value: type(value).__name__)
        digest.update(text.encode())
    return digest.hexdigest()
