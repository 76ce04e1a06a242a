"""What inspect-ai finds in scorl: the task `scorl/self_correction` and the model provider `scorl`.

    inspect eval scorl/self_correction --model openai/MODEL -T task=gsm8k -T path=data/gsm8k -T attempts=2

Any scorl task and split; between two attempts the user says what the task says, or one of `WORDINGS`.
All attempts are made, whatever the verdict, and all are judged by the task's own verifier. docs/inspect.md
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import inspect_ai
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import (
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageUser,
    ModelAPI,
    modelapi,
)
from inspect_ai.scorer import Score, Scorer, Target, mean, scorer, stderr
from inspect_ai.solver import Generate, Solver, TaskState, solver

from scorl.errors import UserError
from scorl.harness.batching import SharedCalls, report
from scorl.metrics import measure
from scorl.recipe import resolve_task
from scorl.rollout import judge
from scorl.tasks.task import Task
from scorl.tasks.turns import Turn
from scorl.tasks.wordings import choose_wordings
from scorl.trajectory import Finish, Group, Problem, Response, Trajectory

__all__ = ["ask_again", "scorl", "self_correction", "verdicts"]

MESSAGES = {"system": ChatMessageSystem, "user": ChatMessageUser, "assistant": ChatMessageAssistant}
FINISHES = "scorl:finishes"
"""Where a sample's store has why each response ended."""
SHOWN = ("accuracy_", "delta", "incorrect_to_correct", "correct_to_incorrect", "answer_changed", "truncated")
"""How the metrics begin that are means over samples, and so are given for each."""


@modelapi(name="scorl")
def scorl() -> type[ModelAPI]:
    """The model provider, which needs torch."""
    from scorl.harness.inspect_model import ScorlModel

    return ScorlModel


@inspect_ai.task
def self_correction(
    task: str = "countdown",
    split: str = "test",
    attempts: int = 2,
    wording: str | None = None,
    limit: int | None = None,
    **settings: Any,
) -> inspect_ai.Task:
    """Whether a model corrects its own answers.

    Args:
        task: one of scorl's, or `file.py:Class`.
        split: which problems.
        attempts: at each.
        wording: what the user says between two attempts, one of `WORDINGS`; None: what the task says.
        limit: only the first so many problems.
        settings: of the task, as its recipe has them.
    """
    try:
        built = build(task, settings, wording)
        problems = built.split(split).take(limit)
        turns = built.turns(attempts)
    except UserError as error:
        raise report(error) from None
    return inspect_ai.Task(
        dataset=MemoryDataset([make_sample(problem) for problem in problems], name=built.name),
        solver=ask_again([turn.message for turn in turns]),
        scorer=verdicts(task, split, attempts, limit, settings),
        metadata={"correction": [turn.message for turn in turns]},
    )


def build(name: str, settings: dict[str, Any], wording: str | None = None) -> Task:
    """A task of scorl's, in its own wording or another.

    Raises:
        UserError: there is none, or a setting, the wording or the task's data are wrong.
    """
    task = resolve_task(name, [f"{key}={json.dumps(value)}" for key, value in settings.items()]).build()
    if wording is None:
        return task
    chosen = choose_wordings(task, wording)
    if len(chosen) > 1:
        raise UserError(f"an evaluation has one wording, not {len(chosen)}: take one of {', '.join(chosen)}")
    return replace(task, between=chosen.popitem()[1])


def make_sample(problem: Problem) -> Sample:
    """A problem as a sample, which knows it by its id: gold answers that are objects would not survive a log."""
    chat: list[ChatMessage] = [MESSAGES[m["role"]](content=m["content"]) for m in problem.prompt]
    if problem.first_attempt is not None:
        chat.append(ChatMessageAssistant(content=problem.first_attempt))
    target = problem.answer if isinstance(problem.answer, str) else ""
    return Sample(id=problem.id, input=chat, target=target, metadata={"problem": problem.id})


@solver
def ask_again(messages: list[str | None]) -> Solver:
    """An attempt, and another one after each message; None asks the question again. The verdict is never told."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        question = next(m.text for m in reversed(state.messages) if m.role == "user")
        finishes = ["stop"]
        if state.messages[-1].role != "assistant":
            state = await generate(state, tool_calls="none")
            finishes = [finish(state)]
        for message in messages:
            state.messages.append(ChatMessageUser(content=question if message is None else message))
            state = await generate(state, tool_calls="none")
            finishes.append(finish(state))
        state.store.set(FINISHES, finishes)
        return state

    return solve


def finish(state: TaskState) -> Finish:
    """Why the newest response ended."""
    return "length" if state.output.stop_reason in ("max_tokens", "model_length") else "stop"


@scorer(metrics={"*": [mean(), stderr(cluster="problem")]})
def verdicts(task: str, split: str, attempts: int, limit: int | None, settings: dict[str, Any]) -> Scorer:
    """The task's own verdicts on all attempts; its arguments are plain, so that a log can be judged once more."""
    built = build(task, settings)
    turns, problems = built.turns(attempts), {p.id: p for p in built.split(split).take(limit)}

    def judge_all(trajectories: list[Trajectory]) -> list[Group]:
        return judge(built, turns, [[trajectory] for trajectory in trajectories])

    judged = SharedCalls(judge_all)

    async def score(state: TaskState, target: Target) -> Score:
        trajectory = read(state, problems[str(state.sample_id)], turns)
        if trajectory is None:
            return Score.unscored(reason="no_response", explanation="some attempts were not made")
        (complete,) = await judged(trajectory)
        return describe(complete)

    return score


def read(state: TaskState, problem: Problem, turns: Sequence[Turn]) -> Trajectory | None:
    """The responses of a sample, without verdicts; None where some are missing."""
    shown = sum(message["role"] == "assistant" for message in problem.prompt)  # few-shot examples
    texts = [message.text for message in state.messages if message.role == "assistant"][shown:]
    roles = ("attempt", *(turn.role for turn in turns))
    if len(texts) < len(roles):
        return None
    finishes = state.store.get(FINISHES, ["stop"] * len(roles))
    parts = zip(texts, roles, finishes, strict=True)
    return Trajectory(problem, 0, tuple(Response((), (), (), text, end, None, role) for text, role, end in parts))


def describe(trajectory: Trajectory) -> Score:
    """A score that has the metrics of one trajectory as its value, and says what became of each attempt."""
    judged = [attempt.verdict for attempt in trajectory.attempts if attempt.verdict]
    lines = (
        f"attempt {number}: {verdict.outcome}" + f", {verdict.reason}" * bool(verdict.reason)
        for number, verdict in enumerate(judged, 1)
    )
    return Score(
        value={
            name: float(v) for name, v in measure([[trajectory]]).items() if v is not None and name.startswith(SHOWN)
        },
        answer=judged[-1].answer,
        explanation="\n".join(lines),
        metadata={"answers": [verdict.answer for verdict in judged], "outcomes": [v.outcome for v in judged]},
    )
