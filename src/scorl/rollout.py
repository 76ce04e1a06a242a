"""Rollout: ask, let the model answer, tell it that there might be an error, let it answer again; then judge.

    groups = converse(engine, problems, turns, draws)         # what was said; needs no task
    several = converse_each(engine, problems, [turns, others], draws)    # after the same first attempts
    groups = judge(task, turns, groups)                       # the same with verdicts
    groups = rollout(engine, task, problems, turns, draws)    # both

Every problem gets all its turns, also when an attempt was right: stopping early would leak the verifier and hide
right-to-wrong flips. Tokens are the state: a prompt is the ids of the turn before, with new ids appended.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from scorl.engines.engine import Dialogue, Engine, Request, Sample
from scorl.errors import UserError
from scorl.settings import Sampling
from scorl.tasks.task import Task, check_verdicts
from scorl.tasks.turns import Turn, number_responses
from scorl.trajectory import RIGHT, AttemptText, Group, Problem, Response, Role, Trajectory, Verdict

__all__ = [
    "Draws",
    "First",
    "OfflineAttempts",
    "SeedOf",
    "converse",
    "converse_each",
    "demonstrate",
    "judge",
    "rollout",
]

SeedOf = Callable[[Problem, int, int], int]
"""The seed of (problem, sample, place in the conversation); samples of a problem that is drawn twice are counted on."""


First = Literal["each", "best", "wrong"]
"""Which of a problem's sampled first attempts the later ones follow: each; the one with the best reward; a wrong one.

The last two look at rewards before the conversation is over, as only training can.
"""


@dataclass(frozen=True, slots=True)
class OfflineAttempts:
    """First attempts that another policy writes: context for the later ones, never trained on."""

    engine: Engine
    share: float = 1.0
    """Of each problem's samples."""


@dataclass(frozen=True, slots=True)
class Draws:
    """What is drawn for each problem."""

    seed: SeedOf
    samples: int = 1
    """First attempts of each problem."""
    sampling: Sampling = field(default_factory=Sampling)
    """Temperature and token limits of responses."""
    branches: int = 1
    """Trajectories that continue from each first attempt."""
    offline: OfflineAttempts | None = None
    """Who writes first attempts in the policy's place, and how many of them."""
    policy: int = 0
    """The number of updates, noted on every response."""
    first: First = "each"
    """Which first attempts are gone on from; but for `each` one of a problem, the first of those that are alike."""
    before: Sequence[Problem] = ()
    """Problems of the same step that other ranks ask; one that comes again here gets other seeds than there."""


def rollout(
    engine: Engine,
    task: Task,
    problems: Sequence[Problem],
    turns: Sequence[Turn],
    draws: Draws,
    progress: Callable[[int], None] = lambda written: None,
) -> list[Group]:
    """Sample and judge the trajectories of each problem: `converse`, then `judge`."""
    return judge(task, turns, converse(engine, problems, turns, draws, progress, task))


def converse(
    engine: Engine,
    problems: Sequence[Problem],
    turns: Sequence[Turn],
    draws: Draws,
    progress: Callable[[int], None] = lambda written: None,
    task: Task | None = None,
) -> list[Group]:
    """Sample the responses to each problem and to the turns behind it; nothing is judged.

    Args:
        engine: writes the responses.
        problems: what is asked; one that comes again gets other seeds.
        turns: what follows the first attempt.
        draws: how many, how, and by which seeds.
        progress: is told the responses that each trajectory has, whenever a turn is over and another follows.
        task: judges first attempts where `draws.first` chooses among them.

    Returns:
        One group for each problem, in order, of `samples * branches` trajectories, or `branches` of a chosen first one.

    Raises:
        UserError: the problems bring their own first attempts, and no turn follows.
    """
    (groups,) = converse_each(engine, problems, [turns], draws, progress, task)
    return groups


def converse_each(
    engine: Engine,
    problems: Sequence[Problem],
    conversations: Sequence[Sequence[Turn]],
    draws: Draws,
    progress: Callable[[int], None] = lambda written: None,
    task: Task | None = None,
) -> list[list[Group]]:
    """As `converse`, for several conversations of the same roles, which go on from the same first attempts.

    All of a turn is asked at once, so that an engine computes what they share once.
    """
    last = len(conversations[0])
    limits = [draws.sampling.limit(attempt) for attempt in number_responses(conversations[0])]
    if not last and any(problem.first_attempt is not None for problem in problems):
        raise UserError(f"problem {problems[0].id} brings its own first attempt: take 2 attempts or more")
    first = _open(engine, _first_rows(engine.chat, problems, draws), draws, limits[0], keep=last > 0)
    if draws.first != "each":
        assert task is not None, "somebody has to judge first attempts"
        first = _choose(task, first, draws)
    size = draws.branches * (draws.samples if draws.first == "each" else 1)
    first = [replace(r, number=r.number * draws.branches + b, branch=b) for r in first for b in range(draws.branches)]
    rows = first * len(conversations)
    for place in range(last):
        progress(1 + place)
        turns = [turns[place] for turns in conversations for _ in first]
        asked = [row.asked(engine.chat, turn) for row, turn in zip(rows, turns, strict=True)]
        rows = _write(engine, asked, draws, limits[1 + place], keep=place + 1 < last)
    trajectories = [
        Trajectory(r.problem, r.number // draws.branches, r.responses, r.branch, r.dropped_tokens) for r in rows
    ]
    groups = [trajectories[i : i + size] for i in range(0, len(trajectories), size)]
    return [list(groups[i * len(problems) : (i + 1) * len(problems)]) for i in range(len(conversations))]


def judge(task: Task, turns: Sequence[Turn], groups: Sequence[Group]) -> list[Group]:
    """The same trajectories with verdicts on attempts (the task's) and verifications; critiques have none.

    All attempts go to the task at once, so that its workers stay busy.
    """
    # Branches share the very object of their first attempt, so that it is judged once.
    attempts = {
        id(a): (t.problem, a, number) for group in groups for t in group for number, a in enumerate(t.attempts, 1)
    }
    verdicts = task.judge([(problem, AttemptText(attempt, number)) for problem, attempt, number in attempts.values()])
    check_verdicts(task, [problem for problem, _, _ in attempts.values()], verdicts)
    judged = {
        key: replace(attempt, verdict=verdict)
        for (key, (_, attempt, _)), verdict in zip(attempts.items(), verdicts, strict=True)
    }
    return [[replace(t, responses=tuple(_judge_all(t, judged, turns))) for t in group] for group in groups]


def _judge_all(trajectory: Trajectory, judged: Mapping[int, Response], turns: Sequence[Turn]) -> Iterator[Response]:
    """A trajectory's responses with their verdicts."""
    attempt = trajectory.responses[0]
    for place, response in enumerate(trajectory.responses):
        if response.role == "attempt":
            attempt = judged[id(response)]
            yield attempt
        elif response.role == "verification":
            claim = turns[place - 1].claim(response.text)
            yield replace(response, verdict=_judge_claim(claim, attempt.right))
        else:
            yield response


def _judge_claim(claim: bool | None, right: bool) -> Verdict:
    """Whether a verification's claim agrees with the verdict on the attempt before it."""
    if claim is None:
        return Verdict(0.0, "unparsable", "it says neither right nor wrong")
    agrees = claim == right
    return Verdict(float(agrees), "correct" if agrees else "incorrect", answer="right" if claim else "wrong")


def demonstrate(chat: Dialogue, task: Task, problems: Sequence[Problem]) -> list[Group]:
    """The reference solutions as first attempts, one trajectory a problem, judged like any other.

    Raises:
        UserError: a problem has no reference solution.
    """
    rows = []
    for problem in problems:
        if problem.solution is None:
            raise UserError(f"problem {problem.id} of task '{task.name}' has no reference solution to learn from")
        row = _Row(problem, 0, chat.prompt(problem.prompt))
        rows.append(row.answered(_as_sample(chat, problem.solution), problem.solution))
    return judge(task, (), [[Trajectory(row.problem, 0, row.responses)] for row in rows])


@dataclass(frozen=True, slots=True)
class _Row:
    """A trajectory as it grows: the prompt to be answered next, and what was written so far."""

    problem: Problem
    number: int
    """Of the sample, counted on over branches and over a problem that is drawn twice: what its seeds hang on."""
    prompt_ids: tuple[int, ...]
    responses: tuple[Response, ...] = ()
    branch: int = 0
    role: Role = "attempt"
    """Of the next response."""
    dropped_tokens: int = 0

    @property
    def place(self) -> int:
        """Of the next response in the conversation."""
        return len(self.responses)

    def answered(self, sample: Sample, text: str, policy: int = 0, offline: bool = False) -> _Row:
        said = (self.prompt_ids, sample.ids, sample.logprobs, text, sample.finish)
        response = Response(*said, role=self.role, policy=policy, offline=offline, counted=sample.tokens)
        return replace(self, responses=(*self.responses, response))

    def brought(self, chat: Dialogue) -> _Row:
        """With the first attempt that its problem brings."""
        text = self.problem.first_attempt or ""
        return self.answered(_as_sample(chat, text), text, offline=True)

    def asked(self, chat: Dialogue, turn: Turn) -> _Row:
        """With the user's next message."""
        before = sum(m["role"] == "user" for m in self.problem.prompt) + self.place - 1
        ids = chat.follow(self.prompt_ids, self.responses[-1].ids, turn.ask(self.problem), turn=before)
        return replace(self, prompt_ids=ids, role=turn.role)


def _as_sample(chat: Dialogue, text: str) -> Sample:
    """A text that nobody sampled, as if somebody had."""
    ids = chat.reply(text)
    return Sample(ids, (0.0,) * len(ids), "stop")


def _first_rows(chat: Dialogue, problems: Sequence[Problem], draws: Draws) -> list[_Row]:
    """A row for every sample; a problem that comes again gets new sample numbers, so other seeds."""
    seen = Counter(problem.id for problem in draws.before)
    rows = []
    for problem in problems:
        prompt = chat.prompt(problem.prompt)
        rows += [_Row(problem, draws.samples * seen[problem.id] + k, prompt) for k in range(draws.samples)]
        seen[problem.id] += 1
    return rows


def _open(engine: Engine, rows: Sequence[_Row], draws: Draws, max_tokens: int, keep: bool) -> list[_Row]:
    """The rows with first attempts: the problem's own, another policy's, or the policy's."""
    away = round(draws.offline.share * draws.samples) if draws.offline else 0
    brought = [row.brought(engine.chat) for row in rows if row.problem.first_attempt is not None]
    written = [row for row in rows if row.problem.first_attempt is None]
    foreign = [row for row in written if row.number % draws.samples < away]
    own = [row for row in written if row.number % draws.samples >= away]
    if draws.offline:  # also where there is nothing to write: ranks that share an engine ask together
        brought += _write(draws.offline.engine, foreign, draws, max_tokens, keep=False, offline=True)
    opened = {(r.problem.id, r.number): r for r in [*brought, *_write(engine, own, draws, max_tokens, keep)]}
    return [opened[row.problem.id, row.number] for row in rows]


def _choose(task: Task, rows: Sequence[_Row], draws: Draws) -> list[_Row]:
    """One row of each problem, the first of those with the best reward or of the wrong ones, or of all."""
    verdicts = task.judge([(row.problem, AttemptText(row.responses[0], 1)) for row in rows])
    check_verdicts(task, [row.problem for row in rows], verdicts)
    chosen = []
    for start in range(0, len(rows), draws.samples):
        rewards = [verdict.reward for verdict in verdicts[start : start + draws.samples]]
        wrong = next((place for place, reward in enumerate(rewards) if reward < RIGHT), 0)
        row = rows[start + (wrong if draws.first == "wrong" else rewards.index(max(rewards)))]
        attempt = row.responses[0]
        dropped = sum(len(one.responses[0].ids) for one in rows[start : start + draws.samples]) - len(attempt.ids)
        chosen.append(replace(row, responses=(replace(attempt, offline=True),), dropped_tokens=dropped))
    return chosen


def _write(
    engine: Engine, rows: Sequence[_Row], draws: Draws, max_tokens: int, keep: bool, offline: bool = False
) -> list[_Row]:
    """The rows with their next responses; `keep` says that another turn follows, for which the engine may cache."""
    requests = [Request(row.prompt_ids, draws.seed(row.problem, row.number, row.place)) for row in rows]
    policy = 0 if offline else draws.policy
    samples = engine.sample(requests, temperature=draws.sampling.temperature, max_tokens=max_tokens, keep=keep)
    return [
        row.answered(sample, engine.chat.text(sample.ids), policy, offline)
        for row, sample in zip(rows, samples, strict=True)
    ]
