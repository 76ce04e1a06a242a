"""`humaneval`: functions to be completed from their docstring, zero-shot; for evaluation only.

`humaneval+` and `mbpp+` (the files of evalplus) judge by many more inputs: plus.py.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from scorl.tasks.coding import ProgramSettings, as_block, read_tests
from scorl.tasks.data import Finite, named_apart
from scorl.tasks.rows import Row, column, keep_good, text_column
from scorl.tasks.sources import load_hub_rows, read_rows
from scorl.tasks.task import Task
from scorl.trajectory import Problem, user
from scorl.verifiers.program import Examination

__all__ = ["HumanEval", "code_before", "humaneval"]

PROMPT = (
    "Complete this Python function. Put the whole function, with the imports that it needs, into one Python code "
    "block.\n\n```python\n{question}\n```"
)


@dataclass(frozen=True, kw_only=True)
class HumanEval(ProgramSettings):
    """Settings of `humaneval`."""

    task: ClassVar[str] = "humaneval"
    path: str | None = None
    """HumanEval.jsonl (`.gz` too); None: openai/openai_humaneval from the hub."""
    prompt: str = PROMPT
    """The first prompt; `{question}` is filled in."""


def humaneval(settings: HumanEval | None = None) -> Task:
    """The task `humaneval`, whose only split is `test`.

    Raises:
        UserError: no such file, a row of another form, or no hub.
    """
    settings = settings or HumanEval()
    rows = read_rows(settings.path) if settings.path else load_hub_rows("openai/openai_humaneval", None, "test")
    problems = named_apart(keep_good(partial(make_problem, settings=settings), rows))
    return settings.make_task({"test": Finite(problems)})


def make_problem(row: Row, settings: HumanEval) -> Problem:
    """A row (`prompt`, `entry_point`, `canonical_solution`, `test`) as a problem."""
    question, name = text_column(row, "prompt"), text_column(row, "entry_point")
    before = code_before(question, name)
    answer = Examination(
        tests=read_tests(column(row, "test"), row.where),
        setup=before,  # the tests use helpers of the prompt: ours, not those that a program may have replaced
        entry_point=name,
        preamble=before,
        opening=question,
        timeout=settings.timeout,
    )
    asked = user(settings.prompt.replace("{question}", question.strip()))
    body = text_column(row, "canonical_solution") if column(row, "canonical_solution") else ""
    solution = as_block(question + body) if body else None
    return Problem(text_column(row, "task_id"), (asked,), answer, solution)


def code_before(question: str, name: str) -> str:
    """What a prompt has before the function that is asked for: imports and helpers."""
    head = re.search(rf"^def\s+{re.escape(name)}\b", question, re.MULTILINE)
    return question[: head.start()].strip() if head else ""
