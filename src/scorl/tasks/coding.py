"""What the tasks with programs share: the wordings, the settings of the sandbox, and how tests are read."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from functools import partial
from typing import Any

from scorl.errors import UserError
from scorl.sandbox.pool import Requirement
from scorl.tasks.task import Judge
from scorl.trajectory import Problem, Verdict
from scorl.verifiers import program

__all__ = ["CORRECTION", "block", "check_settings", "has_check", "judge_in", "pairs_of", "tests_of"]

CORRECTION = (
    "There might be an error in the code above. Go through it again, correct it if something is wrong, and put the "
    "final, complete program into one Python code block."
)


def judge_in(sandbox: Requirement) -> Judge:
    """The judge of programs by the tests in `Problem.answer`."""
    judge: partial[list[Verdict]] = partial(_judge, sandbox)
    return judge


def _judge(sandbox: Requirement, pairs: Sequence[tuple[Problem, str]]) -> list[Verdict]:
    return program.judge(pairs, sandbox)


def check_settings(name: str, sandbox: str, timeout: float) -> None:
    """Says what is wrong with settings that every task with programs has."""
    if sandbox not in ("required", "preferred"):
        raise UserError(f"{name}: sandbox is '{sandbox}', but should be 'required' or 'preferred'")
    if not 0 < timeout <= 600:
        raise UserError(f"{name}: timeout is {timeout:g}, but should be above 0 and at most 600 seconds")


def block(text: str) -> str:
    """A program as a code block."""
    return f"```python\n{text.strip()}\n```"


def tests_of(value: Any, where: str) -> tuple[str, ...]:
    """Tests from a list of statements or one text of them.

    Raises:
        UserError: they are no Python, or assert nothing.
    """
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise UserError(f"{where}: tests should be a list of assert statements or one text of them, not {value!r:.60}")
    found = False
    for text in texts:
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError) as error:
            raise UserError(f"{where}: a test is not Python ({error}): {text[:80]!r}") from error
        found = found or any(isinstance(node, ast.Assert) for node in ast.walk(tree))
    if not found:
        raise UserError(f"{where}: the tests assert nothing, so every program would pass")
    return tuple(texts)


def has_check(tests: Sequence[str]) -> bool:
    """Whether the tests are a function `check(candidate)`, which needs to know what to check."""
    nodes = (node for text in tests for node in ast.parse(text).body)
    return any(isinstance(node, ast.FunctionDef) and node.name == "check" for node in nodes)


def pairs_of(value: Any, where: str) -> tuple[tuple[str, str], ...] | None:
    """Tests that are pairs `{"input", "output"}` of texts; None if they are something else."""
    if not isinstance(value, list) or not value or not all(isinstance(one, dict) for one in value):
        return None
    for one in value:
        if not isinstance(one.get("input"), str) or not isinstance(one.get("output"), str):
            raise UserError(f'{where}: a pair looks like {{"input": "1 2\\n", "output": "3\\n"}}, not {one!r:.60}')
    return tuple((one["input"], one["output"]) for one in value)
