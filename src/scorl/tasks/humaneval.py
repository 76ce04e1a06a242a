"""`humaneval`: functions to be completed from their docstring, zero-shot; for evaluation only.

`humaneval+` and `mbpp+` (the files of evalplus) judge by many more inputs: plus.py.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from scorl.errors import UserError
from scorl.tasks.coding import CORRECTION, block, check_settings, judge_in, tests_of
from scorl.tasks.data import Finite, Row, column, hub_rows, read_rows
from scorl.tasks.task import Task
from scorl.trajectory import Problem, user
from scorl.verifiers.program import SECONDS, Examination

__all__ = ["HumanEval", "beginning", "humaneval"]

PROMPT = (
    "Complete this Python function. Put the whole function, with the imports that it needs, into one Python code "
    "block.\n\n```python\n{question}\n```"
)


@dataclass(frozen=True)
class HumanEval:
    """Settings of `humaneval`."""

    path: str | None = None
    """HumanEval.jsonl (`.gz` too); None: openai/openai_humaneval from the hub."""
    prompt: str = PROMPT
    """The first prompt; `{question}` is filled in."""
    correction: str = CORRECTION
    """The message between two attempts."""
    timeout: float = SECONDS
    """Processor seconds of a program; scaled to the machine's speed."""
    sandbox: Literal["required", "preferred"] = "required"
    """`required` refuses to run programs in less than the full sandbox (docs/code.md)."""

    def __post_init__(self) -> None:
        check_settings("humaneval", self.sandbox, self.timeout)
        if "{question}" not in self.prompt:
            raise UserError(f"humaneval: the prompt {self.prompt!r} lacks {{question}}")


def humaneval(settings: HumanEval | None = None) -> Task:
    """The task `humaneval`, whose only split is `test`.

    Raises:
        UserError: no such file, a row of another form, or no hub.
    """
    settings = settings or HumanEval()
    rows = read_rows(settings.path) if settings.path else hub_rows("openai/openai_humaneval", None, "test")
    problems = [problem(row, settings) for row in rows]
    return Task("humaneval", {"test": Finite(problems)}, settings.correction, judge_in(settings.sandbox))


def problem(row: Row, settings: HumanEval) -> Problem:
    """A row (`prompt`, `entry_point`, `canonical_solution`, `test`) as a problem."""
    question, name = str(column(row, "prompt")), str(column(row, "entry_point"))
    before = beginning(question, name)
    answer = Examination(
        tests=tests_of(column(row, "test"), row.where),
        setup=before,  # the tests use helpers of the prompt: ours, not those that a program may have replaced
        entry_point=name,
        preamble=before,
        opening=question,
        timeout=settings.timeout,
    )
    asked = user(settings.prompt.replace("{question}", question.strip()))
    solution = block(question + str(column(row, "canonical_solution")))
    return Problem(str(column(row, "task_id")), (asked,), answer, solution)


def beginning(question: str, name: str) -> str:
    """What a prompt has before the function that is asked for: imports and helpers."""
    found = re.search(rf"^def\s+{re.escape(name)}\b", question, re.MULTILINE)
    return question[: found.start()].strip() if found else ""
