"""Rollout: ask, let the model answer, tell it that there might be an error, let it answer again; then judge.

Every problem gets all its turns, also when an attempt was right: stopping early would leak the verifier and hide
right-to-wrong flips. Tokens are the state: a turn's prompt is the ids of the turn before, with new ids appended.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from scorl.engines.engine import Engine, Request, Sample
from scorl.errors import UserError
from scorl.model.chat import Chat
from scorl.tasks.task import Task
from scorl.tasks.turns import Turn
from scorl.trajectory import Attempt, Group, Problem, Trajectory, Verdict

__all__ = ["Given", "SeedOf", "demonstrate", "rollout"]

SeedOf = Callable[[Problem, int, int], int]
"""The seed of (problem, sample, turn); samples of a problem that is drawn twice are counted on."""


@dataclass(frozen=True, slots=True)
class Given:
    """First attempts that another policy writes: context for the later ones, never trained on."""

    engine: Engine
    share: float = 1.0
    """Of each problem's samples."""


def rollout(
    engine: Engine,
    chat: Chat,
    task: Task,
    problems: Sequence[Problem],
    *,
    turns: Sequence[Turn],
    samples: int,
    temperature: float,
    max_tokens: int,
    seed: SeedOf,
    branches: int = 1,
    given: Given | None = None,
    policy: int = 0,
    before: Sequence[Problem] = (),
) -> list[Group]:
    """Sample and judge the trajectories of each problem.

    Args:
        engine: writes the attempts.
        chat: makes prompts of messages.
        task: judges; the wording of its first prompts is the problems' own.
        problems: what is asked; one that comes again gets other seeds.
        turns: what follows the first attempt.
        samples: first attempts of each problem.
        temperature: of every response; 0 is greedy.
        max_tokens: the longest response.
        seed: of each draw.
        branches: trajectories that go on from each first attempt.
        given: who writes first attempts in the policy's place, and how many of them.
        policy: the number of updates, noted on every attempt.
        before: problems of the same step that others ask; one that comes again here gets other seeds than there.

    Returns:
        One group for each problem, in order, of `samples * branches` trajectories.

    Raises:
        UserError: the problems bring their own first attempts, and no turn follows.
    """
    if not turns and any(problem.first_attempt is not None for problem in problems):
        raise UserError(f"task '{task.name}' brings its own first attempts: take 2 attempts or more")

    def write(rows: Sequence[_Row], turn: int, writer: Engine) -> list[_Row]:
        requests = [Request(row.prompt_ids, seed(row.problem, row.number, turn)) for row in rows]
        drawn = writer.sample(requests, temperature=temperature, max_tokens=max_tokens, keep=turn < len(turns))
        return [row.answered(sample, chat.text(sample.ids)) for row, sample in zip(rows, drawn, strict=True)]

    foreign = round(given.share * samples) if given else 0
    writers = {
        "problem": lambda rows: [row.brought(chat) for row in rows],
        "given": lambda rows: write(rows, 0, given.engine if given else engine),
        "policy": lambda rows: write(rows, 0, engine),
    }
    rows = _opened(_first(chat, problems, samples, before), writers, lambda row: row.number % samples < foreign)
    rows = [replace(r, number=r.number * branches + b, branch=b) for r in rows for b in range(branches)]
    for index, turn in enumerate(turns, 1):
        rows = write([row.followed(chat, turn, index) for row in rows], index, engine)
    trajectories = _judged(task, rows, policy, branches)
    size = samples * branches
    return [trajectories[i : i + size] for i in range(0, len(trajectories), size)]


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
        row = _Row(problem, 0, chat.prompt(problem.prompt))
        rows.append(row.answered(Sample(ids, (0.0,) * len(ids), "stop"), problem.solution))
    return [[trajectory] for trajectory in _judged(task, rows, policy=0, branches=1)]


@dataclass(frozen=True, slots=True)
class _Written:
    """A response before it is judged; a critique is none that will be."""

    prompt_ids: tuple[int, ...]
    sample: Sample
    text: str
    attempt: bool


@dataclass(frozen=True, slots=True)
class _Row:
    """A trajectory as it grows: the prompt that is to be answered next, and what was written so far."""

    problem: Problem
    number: int
    """Of the sample, counted on over branches and over a problem that is drawn twice: what its seeds hang on."""
    prompt_ids: tuple[int, ...]
    written: tuple[_Written, ...] = ()
    attempt: bool = True
    """Whether the next response is an attempt."""
    given: bool = False
    branch: int = 0

    def answered(self, sample: Sample, text: str) -> _Row:
        return replace(self, written=(*self.written, _Written(self.prompt_ids, sample, text, self.attempt)))

    def brought(self, chat: Chat) -> _Row:
        """With the first attempt that its problem brings."""
        text = self.problem.first_attempt or ""
        ids = chat.reply(text)
        return self.answered(Sample(ids, (0.0,) * len(ids), "stop"), text)

    def followed(self, chat: Chat, turn: Turn, index: int) -> _Row:
        before = sum(message["role"] == "user" for message in self.problem.prompt) + index - 1
        prompt = chat.follow(self.prompt_ids, self.written[-1].sample.ids, turn.message, turn=before)
        return replace(self, prompt_ids=prompt, attempt=turn.attempt)


def _first(chat: Chat, problems: Sequence[Problem], samples: int, before: Sequence[Problem]) -> list[_Row]:
    """A row for every sample; a problem that comes again gets new sample numbers, so other seeds."""
    seen = Counter(problem.id for problem in before)
    rows = []
    for problem in problems:
        prompt = chat.prompt(problem.prompt)
        rows += [_Row(problem, samples * seen[problem.id] + sample, prompt) for sample in range(samples)]
        seen[problem.id] += 1
    return rows


def _opened(
    rows: Sequence[_Row],
    writers: Mapping[str, Callable[[list[_Row]], list[_Row]]],
    foreign: Callable[[_Row], bool],
) -> list[_Row]:
    """The rows with their first attempts, which the problem brings, another policy writes (`given`), or the policy."""

    def writer(row: _Row) -> str:
        if row.problem.first_attempt is not None:
            return "problem"
        return "given" if foreign(row) else "policy"

    opened = {name: iter(write([row for row in rows if writer(row) == name])) for name, write in writers.items()}
    return [replace(next(opened[writer(row)]), given=writer(row) != "policy") for row in rows]


def _judged(task: Task, rows: Sequence[_Row], policy: int, branches: int) -> list[Trajectory]:
    """Trajectories from what was written; all attempts go to the judge at once, so that its workers stay busy.

    A first attempt that several branches share is judged once.
    """
    asked = [(row.problem, w.text) for row in rows for w in row.written[row.branch > 0 :] if w.attempt]
    verdicts = iter(task.judge(asked))
    trajectories: list[Trajectory] = []
    for row in rows:
        shared = trajectories[-1].attempts[:1] if row.branch else ()
        attempts = (*shared, *_attempts(row, len(shared), verdicts, policy))
        trajectories.append(Trajectory(row.problem, row.number // branches, attempts, row.branch))
    return trajectories


def _attempts(row: _Row, skip: int, verdicts: Iterator[Verdict], policy: int) -> Iterator[Attempt]:
    """The attempts of a row but for the first `skip`, each with the critiques before it."""
    turn = skip
    critiques: tuple[str, ...] = ()
    for w in row.written[skip:]:
        if not w.attempt:
            critiques = (*critiques, w.text)
            continue
        given = row.given and turn == 0
        yield Attempt(
            turn=turn,
            prompt_ids=w.prompt_ids,
            ids=w.sample.ids,
            logprobs=w.sample.logprobs,
            text=w.text,
            finish=w.sample.finish,
            verdict=next(verdicts),
            policy=0 if given else policy,
            given=given,
            critiques=critiques,
        )
        turn, critiques = turn + 1, ()
