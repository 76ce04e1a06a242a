"""`scorl train RECIPE --show-prompts`: what the model will see, token by token, before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scorl.model.chat import Chat
    from scorl.recipe import Recipe
    from scorl.tasks.task import Task
    from scorl.trajectory import Problem

__all__ = ["show_prompts"]

SHOWN = 2
"""Problems."""
ANSWER = "..."
"""In the place of what the model will write."""


def show_prompts(recipe: Recipe) -> Iterator[str]:
    """The lines on the first problems of a run: the prompts of all turns as text and as tokens, and the gold answer.

    Reads the task's files and the model's tokenizer, but no weights.
    """
    from scorl.model.chat import Chat

    task = recipe.build_task()
    chat = Chat.of_model(recipe.model)
    attempts = max((stage.attempts for stage in recipe.stages), default=2)
    for problem in task.split(recipe.task.split).draw(SHOWN, 0, recipe.seed):
        yield f"problem {problem.id}, gold answer {problem.answer!r:.200}"
        for number, ids in enumerate(turns_of(problem, task, chat, attempts), 1):
            stand_in = f", with {ANSWER!r} for what the model will have written" if number > 1 else ""
            yield f"  prompt {number}: {len(ids)} tokens{stand_in}"
            yield from (f"  | {line}" for line in chat.show(ids).split("\n"))
            yield "  " + " ".join(f"{token}:{chat.show([token])!r}" for token in ids)


def turns_of(problem: Problem, task: Task, chat: Chat, attempts: int) -> Iterator[tuple[int, ...]]:
    """The prompt of each response to a problem."""
    asked = sum(message["role"] == "user" for message in problem.prompt)
    ids = chat.prompt(problem.prompt)
    yield ids
    for number, turn in enumerate(task.turns(attempts)):
        written = problem.first_attempt if number == 0 and problem.first_attempt else ANSWER
        ids = chat.follow(ids, chat.reply(written), turn.ask(problem), turn=asked + number)
        yield ids
