"""What the tasks with programs share: their settings, and how tests are read."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Interval

from scorl.errors import UserError
from scorl.tasks.task import Problems, Task
from scorl.verifiers import program
from scorl.verifiers.extract_code import extract_program
from scorl.verifiers.program import SECONDS

__all__ = ["CORRECTION", "ProgramSettings", "Seconds", "as_block", "defines_check", "read_pairs", "read_tests"]

Seconds = Annotated[float, Interval(gt=0, le=600)]
"""Processor seconds of a program."""

CORRECTION = (
    "There might be an error in the code above. Go through it again, correct it if something is wrong, and put the "
    "final, complete program into one Python code block."
)


@dataclass(frozen=True, kw_only=True)
class ProgramSettings:
    """The settings that every task with programs has; a task adds its name, its wording and its own."""

    task: ClassVar[str]
    fills: ClassVar[tuple[str, ...]] = ("{question}",)
    """What the prompt has to contain."""

    prompt: str
    """The first prompt; `{question}` is filled in."""
    correction: str = CORRECTION
    """The message between two attempts."""
    timeout: Seconds = SECONDS
    """Processor seconds of a program; scaled to the machine's speed."""
    sandbox: Literal["required", "preferred"] = "required"
    """`required` refuses to run programs in less than the full sandbox (docs/code.md)."""

    def __post_init__(self) -> None:
        if self.sandbox not in ("required", "preferred"):
            raise UserError(f"{self.task}: sandbox is '{self.sandbox}', but should be 'required' or 'preferred'")
        for place in self.fills:
            if place not in self.prompt:
                raise UserError(f"{self.task}: the prompt {self.prompt!r} does not contain {place}")

    def find_answer(self, response: str) -> str | None:
        """The program in a response."""
        return extract_program(response)

    def make_task(self, splits: Mapping[str, Problems]) -> Task:
        """The task with these problems, whose answers are `Examination`s."""
        return Task(self.task, splits, self.correction, partial(program.judge, sandbox=self.sandbox))


def as_block(text: str) -> str:
    """A program as a code block."""
    return f"```python\n{text.strip()}\n```"


def read_tests(value: Any, where: str) -> tuple[str, ...]:
    """Tests from a list of statements or one text of them.

    Raises:
        UserError: they are no Python, or assert nothing.
    """
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise UserError(f"{where}: tests should be a list of assert statements or one text of them, not {value!r:.60}")
    asserts = 0
    for text in texts:
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise UserError(f"{where}: a test is not Python ({error}): {text[:80]!r}") from error
        asserts += sum(isinstance(node, ast.Assert) for node in ast.walk(tree))
    if not asserts:
        raise UserError(f"{where}: the tests assert nothing, so every program would pass")
    return tuple(texts)


def defines_check(tests: Sequence[str]) -> bool:
    """Whether the tests are a function `check(candidate)`, which needs to know what to check."""
    nodes = (node for text in tests for node in ast.parse(text).body)
    return any(isinstance(node, ast.FunctionDef) and node.name == "check" for node in nodes)


def read_pairs(value: Any, where: str) -> tuple[tuple[str, str], ...] | None:
    """Tests that are pairs `{"input", "output"}` of texts; None if they are something else."""
    if not isinstance(value, list) or not value or not all(isinstance(one, dict) for one in value):
        return None
    for one in value:
        if not isinstance(one.get("input"), str) or not isinstance(one.get("output"), str):
            raise UserError(f'{where}: a pair looks like {{"input": "1 2\\n", "output": "3\\n"}}, not {one!r:.60}')
    return tuple((one["input"], one["output"]) for one in value)
