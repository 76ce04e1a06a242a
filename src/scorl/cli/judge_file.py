"""Judges answers that exist already: a JSONL file of responses to one of verdicts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from scorl.errors import UserError, nearest
from scorl.sandbox.pool import Requirement
from scorl.tasks.programs import examination
from scorl.trajectory import Problem, Verdict
from scorl.verifiers import countdown, math, program

__all__ = ["VERIFIERS", "judge_lines"]

BATCH = 256
Line = tuple[str, dict[str, Any]]
"""Where a line stands, and what it says."""


def judge_lines(path: str | Path, verifier: str, sandbox: Requirement = "required") -> Iterator[dict[str, Any]]:
    """The verdict on each line of a file, in order: `{"id", "reward", "verdict", "reason"}`.

    A line is `{"id", "response", "answer"}` for `math`, `{"id", "response", "numbers", "target"}` for
    `countdown`, and `{"id", "response", "tests"}` for `program`, with `timeout`, `entry_point`, `setup` and
    `stdin` where wanted. Whatever the response is gives a verdict; lines go through the verifier in batches.

    Raises:
        UserError: no such file or verifier, a line that is not of this form, or (`program`) less than the full
            sandbox where it is required.
    """
    if verifier not in VERIFIERS:
        raise UserError(f"no verifier '{verifier}': {nearest(verifier, VERIFIERS)}")
    verify = partial(judge_programs, sandbox=sandbox) if verifier == "program" else VERIFIERS[verifier]
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    with path.open("rb") as file:
        lines = (read(line, f"{path}, line {index}") for index, line in enumerate(file, 1) if line.strip())
        for batch in batches(lines, BATCH):
            for (_, values), verdict in zip(batch, judge(batch, verify), strict=True):
                yield {
                    "id": values["id"],
                    "reward": verdict.reward,
                    "verdict": verdict.outcome,
                    "reason": verdict.reason,
                }


T = TypeVar("T")


def batches(entries: Iterable[T], size: int) -> Iterator[list[T]]:
    """The entries in lists of at most `size`."""
    iterator = iter(entries)
    while batch := list(islice(iterator, size)):
        yield batch


def read(line: bytes, where: str) -> Line:
    """A line with `id` and `response`."""
    try:
        values = json.loads(line)
    except ValueError as error:  # bad JSON or bad UTF-8
        raise UserError(f"{where}: not valid JSON ({error})") from error
    if not isinstance(values, dict):
        raise UserError(f'{where}: not a JSON object like {{"id": ..., "response": ...}}')
    for name in ("id", "response"):
        field((where, values), name)
    return where, values


def field(line: Line, name: str) -> Any:
    """A field of a line."""
    where, values = line
    if name not in values:
        raise UserError(f"{where}: no '{name}'; the line has: {', '.join(values) or 'nothing'}")
    return values[name]


def judge(batch: Sequence[Line], verify: Callable[[Sequence[Line]], list[Verdict]]) -> list[Verdict]:
    """The verdicts on a batch; a response that is no string is one too."""
    judged = iter(verify([line for line in batch if isinstance(line[1]["response"], str)]))
    return [
        next(judged)
        if isinstance(values["response"], str)
        else Verdict(0.0, "unparsable", f"the response is no string, but {type(values['response']).__name__}")
        for _, values in batch
    ]


def judge_math(lines: Sequence[Line]) -> list[Verdict]:
    """The verdicts of the verifier for mathematics."""
    return math.judge([(Problem("", (), gold(line)), line[1]["response"]) for line in lines])


def gold(line: Line) -> str:
    """The gold answer of a line, a string or a number."""
    answer = field(line, "answer")
    if isinstance(answer, bool) or not isinstance(answer, (str, int, float)):
        raise UserError(f"{line[0]}: the answer should be a string or a number, not {answer!r:.60}")
    return str(answer)


def judge_countdown(lines: Sequence[Line]) -> list[Verdict]:
    """The verdicts of the verifier for countdown."""
    return [
        countdown.verify(line[1]["response"], numbers(line), integer(line, field(line, "target"))) for line in lines
    ]


def judge_programs(lines: Sequence[Line], sandbox: Requirement = "required") -> list[Verdict]:
    """The verdicts of the verifier for programs."""
    pairs = [(Problem("", (), examination(values, where)), values["response"]) for where, values in lines]
    return program.judge(pairs, sandbox)


def numbers(line: Line) -> list[int]:
    """The numbers that a countdown line gives."""
    values = field(line, "numbers")
    if not isinstance(values, list):
        raise UserError(f"{line[0]}: numbers should be a list like [7, 3, 5], not {values!r:.60}")
    return [integer(line, value) for value in values]


def integer(line: Line, value: Any) -> int:
    """A whole number of a line."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise UserError(f"{line[0]}: {value!r:.60} should be a whole number")
    return value


VERIFIERS: Mapping[str, Callable[[Sequence[Line]], list[Verdict]]] = {
    "math": judge_math,
    "countdown": judge_countdown,
    "program": judge_programs,
}
