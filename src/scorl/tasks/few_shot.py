"""Few-shot examples: chat turns before the question, from the recipe, a file, or the split that is trained on.

An example is a row such as `files` has: chat messages, which are taken as they are, or a problem, which gets the task's
own wording, and the reply to it (completion, solution, response or answer).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from scorl.errors import UserError
from scorl.seeds import derive
from scorl.tasks.columns import PROBLEMS, as_chat, find_column, read_chat, read_solution, write_number
from scorl.tasks.rows import Row, column, keep_good
from scorl.tasks.sources import read_rows
from scorl.tasks.task import Task
from scorl.trajectory import Message, Problem, user

__all__ = ["FewShot", "show_examples"]

REPLIES = ("completion", "solution", "response", "answer")
"""Where the reply of an example is found, unless its messages end with it."""
KEY = "task.few_shot"
SPARE = 8
"""Problems that are drawn for each example: some may be the same."""

FewShot = int | str | tuple[dict[str, Any], ...]
"""How many examples, or the file of them, or themselves."""
Example = tuple[Message, ...]
"""Messages, of which the last is the assistant's."""


def show_examples(task: Task, settings: Any, few_shot: FewShot, split: str, seed: int) -> Task:
    """The task with examples before its problems, none of which is the problem itself.

    Args:
        task: the task without them.
        settings: its own; their `prompt` is put around an example that is a text.
        few_shot: the examples, their file, or how many to draw.
        split: that they are drawn from, with their reference solutions.
        seed: of the draw.

    Raises:
        UserError: an example cannot be read, or the split has too few different problems, or none with a solution.
    """
    if getattr(settings, "shots", 0):
        raise UserError(f"{KEY}: '{task.name}' shows solved problems of its own; set task.shots=0 beside it")
    if isinstance(few_shot, int):
        examples = draw_examples(task, few_shot, split, seed)
        return task.map_problems(partial(exemplify, examples=examples, count=few_shot))
    rows = (
        read_rows(few_shot)
        if isinstance(few_shot, str)
        else [Row(values, f"{KEY}.{place}") for place, values in enumerate(few_shot)]
    )
    examples = keep_good(partial(read_example, settings=settings), rows)
    return task.map_problems(partial(exemplify, examples=examples, count=len(examples)))


def exemplify(problem: Problem, examples: Sequence[Example], count: int) -> Problem:
    """The problem behind its system message and `count` of the examples, or as many as there are of others."""
    start = sum(message["role"] == "system" for message in problem.prompt[:1])
    asked = problem.prompt[start:]
    shown = [example for example in examples if asked[-1] not in example][:count]
    return replace(problem, prompt=(*problem.prompt[:start], *(m for example in shown for m in example), *asked))


def draw_examples(task: Task, count: int, split: str, seed: int) -> list[Example]:
    """So many solved problems of a split and one to spare, which is shown where one of the others is asked."""
    drawn = task.split(split).draw(SPARE * (count + 1), 0, derive("few-shot", seed))
    problems = list({problem.prompt[-1]["content"]: problem for problem in drawn}.values())[: count + 1]
    if len(problems) <= count:
        raise UserError(
            f"{KEY}: {count} examples and a problem to ask are wanted, but the split '{split}' of task '{task.name}' "
            f"has {len(problems)} different problems"
        )
    return [show_solved(problem, task.name) for problem in problems]


def show_solved(problem: Problem, task: str) -> Example:
    """A problem with its reference solution."""
    if problem.solution is None:
        raise UserError(
            f"{KEY}: problem {problem.id} of task '{task}' has no reference solution to show; give examples of your "
            f"own, as in {KEY}=examples.jsonl"
        )
    return (*leave_out_system(problem.prompt), reply_with(problem.solution))


def read_example(row: Row, settings: Any) -> Example:
    """A row as an example.

    Raises:
        UserError: it has no problem, or no reply, or lacks what the task's prompt has a place for.
    """
    name = find_column(row, PROBLEMS)
    asked = as_chat(column(row, name)) if name else None
    if name is None or isinstance(asked, str):
        return (user(word_question(row, asked, settings)), reply_with(read_reply(row)))
    messages, reply = read_chat(asked, row)
    return (*leave_out_system(messages), reply_with(read_reply(row) if reply is None else reply))


def word_question(row: Row, question: str | None, settings: Any) -> str:
    """The question of an example in the task's wording, whose places the row's columns fill."""
    values = row.values if question is None else {"question": question, **row.values}
    places = [place.strip("{}") for place in getattr(settings, "fills", ()) or ("{question}",)]
    missing = [place for place in places if place not in values]
    if question is not None and len(missing) == len(places):
        return question
    if missing:
        raise UserError(
            f"{row.where}: no column '{missing[0]}', which the task's prompt has a place for, and no chat messages; "
            f"the columns are: {', '.join(row.values)}"
        )
    text = str(getattr(settings, "prompt", "{question}"))
    for place in places:
        text = text.replace(f"{{{place}}}", str(values[place]))
    return text


def read_reply(row: Row) -> str:
    """The reply of a row."""
    name = find_column(row, REPLIES)
    if name is None:
        raise UserError(
            f"{row.where}: no column {', '.join(REPLIES)} with the reply to show; "
            f"the columns are: {', '.join(row.values)}"
        )
    value = column(row, name)
    return write_number(value) if isinstance(value, (int, float)) else read_solution(row, name)


def leave_out_system(messages: Sequence[Message]) -> Example:
    """The messages but a system prompt, of which there is one before all examples, if any."""
    return tuple(message for message in messages if message["role"] != "system")


def reply_with(text: str) -> Message:
    """A chat message of the assistant."""
    return Message(role="assistant", content=text)
