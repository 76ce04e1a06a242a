"""Rollout: ask, let the model answer, tell it that there might be an error, let it answer again; then judge.

Every problem gets all its turns, also when an attempt was right: stopping early would leak the verifier and hide
right-to-wrong flips. Tokens are the state: a turn's prompt is the ids of the turn before, with new ids appended.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from scorl.chat import Chat
from scorl.engines.engine import Engine, Request, Sample
from scorl.errors import UserError
from scorl.tasks.task import Task
from scorl.trajectory import Attempt, Group, Problem, Trajectory

__all__ = ["SeedOf", "demonstrate", "rollout"]

SeedOf = Callable[[Problem, int, int], int]
"""The seed of (problem, sample, turn); samples of a problem that is drawn twice are counted on."""


def rollout(
    engine: Engine,
    chat: Chat,
    task: Task,
    problems: Sequence[Problem],
    *,
    samples: int,
    attempts: int,
    temperature: float,
    max_tokens: int,
    seed: SeedOf,
    policy: int = 0,
) -> list[Group]:
    """Sample and judge `samples` trajectories of `attempts` attempts for each problem.

    Returns:
        One group for each problem, in order; `policy` (the number of updates) is noted on every attempt.
    """
    asked = _numbered(problems, samples)
    prompts = [prompt for problem in problems for prompt in [chat.prompt(problem.prompt)] * samples]
    turns: list[list[_Written]] = []
    for turn in range(attempts):
        if turn:
            prompts = [
                chat.follow(w.prompt_ids, w.sample.ids, task.correction, turn=_questions(problem) + turn - 1)
                for w, (problem, _) in zip(turns[-1], asked, strict=True)
            ]
        requests = [Request(p, seed(problem, s, turn)) for p, (problem, s) in zip(prompts, asked, strict=True)]
        drawn = engine.sample(requests, temperature=temperature, max_tokens=max_tokens)
        turns.append([_Written(p, d, chat.text(d.ids)) for p, d in zip(prompts, drawn, strict=True)])
    rows = zip(asked, zip(*turns, strict=True), strict=True)
    trajectories = _judged(task, [(problem, s, written) for (problem, s), written in rows], policy)
    return [trajectories[i : i + samples] for i in range(0, len(trajectories), samples)]


def demonstrate(chat: Chat, task: Task, problems: Sequence[Problem]) -> list[Group]:
    """The reference solutions as first attempts, one trajectory a problem, judged like any other.

    Raises:
        UserError: a problem has no reference solution.
    """
    rows = []
    for problem in problems:
        if problem.solution is None:
            raise UserError(
                f"problem {problem.id} of task '{task.name}' has no reference solution, which `supervised` learns from"
            )
        ids = chat.reply(problem.solution)
        sample = Sample(ids, (0.0,) * len(ids), "stop")
        rows.append((problem, 0, (_Written(chat.prompt(problem.prompt), sample, problem.solution),)))
    return [[trajectory] for trajectory in _judged(task, rows, policy=0)]


@dataclass(frozen=True, slots=True)
class _Written:
    """A response before it is judged."""

    prompt_ids: tuple[int, ...]
    sample: Sample
    text: str


def _numbered(problems: Sequence[Problem], samples: int) -> list[tuple[Problem, int]]:
    """(problem, sample) of every trajectory; a problem that comes again gets new sample numbers, so other seeds."""
    seen: Counter[str] = Counter()
    asked = []
    for problem in problems:
        asked += [(problem, samples * seen[problem.id] + sample) for sample in range(samples)]
        seen[problem.id] += 1
    return asked


def _questions(problem: Problem) -> int:
    """How many user messages the first prompt holds; templates may number them."""
    return sum(message["role"] == "user" for message in problem.prompt)


def _judged(task: Task, rows: Sequence[tuple[Problem, int, tuple[_Written, ...]]], policy: int) -> list[Trajectory]:
    """Trajectories from what was written; all turns go to the judge at once, so that its workers stay busy."""
    verdicts = iter(task.judge([(problem, w.text) for problem, _, written in rows for w in written]))
    return [
        Trajectory(
            problem,
            sample,
            tuple(
                Attempt(
                    turn,
                    w.prompt_ids,
                    w.sample.ids,
                    w.sample.logprobs,
                    w.text,
                    w.sample.finish,
                    next(verdicts),
                    policy,
                )
                for turn, w in enumerate(written)
            ),
        )
        for problem, sample, written in rows
    ]
