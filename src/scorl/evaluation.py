"""Evaluation: every problem of a split gets all its turns, and every metric its interval."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import isnan
from typing import Any

from scorl import metrics
from scorl.distributed.ranks import ALONE, Ranks
from scorl.engines.engine import Engine
from scorl.engines.usage import Usage, usage_of
from scorl.errors import UserError
from scorl.rollout import Draws, OfflineAttempts, converse_each, judge
from scorl.seeds import derive
from scorl.settings import EvaluationSettings, MaxTokens, Sampling
from scorl.tasks.task import Task
from scorl.tasks.turns import Turn
from scorl.trajectory import Group, Problem

__all__ = ["Evaluation", "Progress", "Summary", "converse_all", "evaluate", "hash_problems"]

Summary = dict[str, Any]
"""An evaluation as JSON: what it was of, `metrics` as {name: {value, low, high}}, `mcnemar_p`, `outcomes`."""

Progress = Callable[[int, int], None]
"""Is told (problems done, problems in all); one with half of its responses is half done."""

CHUNK = 64
"""Problems that a rank asks at once, or as many as fill its engine's batch; results do not depend on it."""


@dataclass(frozen=True)
class Evaluation:
    """The judged attempts of one evaluation, and how they were made."""

    model: str
    task: str
    settings: EvaluationSettings
    attempts: int
    max_tokens: MaxTokens | None
    """Of each response, or of each attempt's; None, as the seed's and a temperature of NaN: of answers that say no more
    of themselves."""
    seed: int | None
    groups: tuple[Group, ...]
    task_settings: Mapping[str, Any] = field(default_factory=dict)
    messages: tuple[str | None, ...] = ()
    """What was said between the attempts; None: the problem once more."""
    wording: str | None = None
    """The name of these messages, of a panel of several."""
    usage: Usage | None = None
    """What the answers took, of an engine that counts it; those of all wordings of a panel together."""

    def summary(self) -> Summary:
        """The evaluation as JSON, without its texts; rates are fractions, undefined ones null.

        `problems_hash` tells evaluations apart whose problems have the same ids. `mcnemar_p` is that of Delta(t1, t2),
        null for one attempt. `outcomes` says in a word or two what happened to each problem, `edit_ratios` how much
        its text changed on average, and `tokens` how long its responses were: what a paired comparison with another
        evaluation needs.
        """
        return {
            "model": self.model,
            "task": self.task,
            "task_settings": dict(self.task_settings),
            "split": self.settings.split,
            "problems": len(self.groups),
            "problems_hash": hash_problems(group[0].problem for group in self.groups),
            "attempts": self.attempts,
            "wording": self.wording,
            "messages": list(self.messages),
            "temperature": None if isnan(self.settings.temperature) else self.settings.temperature,
            "samples": self.settings.samples,
            "max_tokens": list(self.max_tokens) if isinstance(self.max_tokens, tuple) else self.max_tokens,
            "seed": self.seed,
            "metrics": {k: asdict(interval) for k, interval in metrics.measure_intervals(self.groups).items()},
            "mcnemar_p": metrics.delta_p(self.groups),
            "outcomes": metrics.outcomes(self.groups),
            "edit_ratios": metrics.edit_ratios(self.groups),
            "tokens": metrics.tokens(self.groups),
            **({"usage": asdict(self.usage)} if self.usage else {}),
        }


def evaluate(
    engine: Engine,
    task: Task,
    settings: EvaluationSettings | None = None,
    *,
    model: str = "policy",
    attempts: int = 2,
    max_tokens: MaxTokens = 256,
    seed: int = 0,
    offline: OfflineAttempts | None = None,
    progress: Progress | None = None,
    ranks: Ranks = ALONE,
) -> Evaluation:
    """Sample and judge `attempts` attempts at held-out problems.

    Args:
        engine: samples from the model that is measured.
        task: its problems and its judge.
        settings: which problems, how many samples, and the temperature; when a run evaluates is not read.
        model: what the result calls the model.
        attempts: at each problem.
        max_tokens: the longest response, or that of each attempt as in (64, 256).
        seed: of draws at a temperature above 0.
        offline: who writes first attempts in the model's place.
        progress: see `Progress`.
        ranks: share the problems; each has the whole result.

    Raises:
        UserError: the task has no such split, or there is no problem to evaluate on.
    """
    settings = settings or EvaluationSettings()
    turns = task.turns(attempts)
    (groups,) = converse_all(
        engine,
        task,
        [turns],
        settings,
        max_tokens=max_tokens,
        seed=seed,
        offline=offline,
        progress=progress,
        ranks=ranks,
    )
    messages = tuple(turn.message for turn in turns)
    about = Evaluation(model, task.name, settings, attempts, max_tokens, seed, groups, task.settings, messages)
    return replace(about, usage=usage_of(engine))


def converse_all(
    engine: Engine,
    task: Task,
    conversations: Sequence[Sequence[Turn]],
    settings: EvaluationSettings,
    *,
    max_tokens: MaxTokens,
    seed: int,
    offline: OfflineAttempts | None = None,
    progress: Progress | None = None,
    ranks: Ranks = ALONE,
) -> list[tuple[Group, ...]]:
    """The judged groups of each of these conversations, which share their first attempts; the rest as `evaluate`."""
    problems = task.split(settings.split).take(settings.problems)
    if not problems:
        limit = "" if settings.problems is None else f", of which {settings.problems} are to be taken"
        raise UserError(f"no problem to evaluate on: task '{task.name}', split '{settings.split}'{limit}")
    twice = next((name for name, count in Counter(problem.id for problem in problems).items() if count > 1), None)
    if twice is not None:  # outcomes and seeds go by the id
        raise UserError(f"task '{task.name}': two problems of the split '{settings.split}' have the id {twice!r:.60}")

    def draw_seed(problem: Problem, sample: int, place: int) -> int:
        return derive(seed, "evaluate", problem.id, sample, place)

    tell, responses = progress or (lambda done, total: None), 1 + len(conversations[0])
    size = ranks.size * max(CHUNK, engine.batch_size // settings.samples)
    everything: list[list[Group]] = [[] for _ in conversations]
    for start in range(0, len(problems), size):
        chunk = problems[start : start + size]
        share = ranks.shard(len(chunk))
        before, sampling = chunk[: share.start], Sampling(settings.temperature, max_tokens)
        draws = Draws(draw_seed, settings.samples, sampling, offline=offline, before=before)

        def written(done: int, start: int = start, asked: int = len(chunk)) -> None:
            tell(start + asked * done // responses, len(problems))

        for groups, judged in zip(
            everything, _converse_chunk(engine, task, conversations, chunk[share], draws, written), strict=True
        ):
            groups += ranks.all_concat(judged, "a part of the evaluation")
        tell(start + len(chunk), len(problems))
    return [tuple(groups) for groups in everything]


def _converse_chunk(
    engine: Engine,
    task: Task,
    conversations: Sequence[Sequence[Turn]],
    problems: Sequence[Problem],
    draws: Draws,
    written: Callable[[int], None],
) -> list[list[Group]]:
    """The judged groups of each conversation; all are judged at once, and first attempts once for all.

    Of several conversations no turn is a verification, so the turns of one say what is judged in all.
    """
    said = converse_each(engine, problems, conversations, draws, written)
    judged = judge(task, conversations[0], [group for groups in said for group in groups])
    return [judged[i * len(problems) : (i + 1) * len(problems)] for i in range(len(conversations))]


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
