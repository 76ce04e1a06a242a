"""Judges answers that exist already: a JSONL file of responses to one of verdicts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from scorl.errors import UserError, nearest
from scorl.sandbox import Requirement
from scorl.tasks.columns import read_gold
from scorl.tasks.programs import read_examination
from scorl.text_files import as_path, parse_json
from scorl.trajectory import Problem, Verdict
from scorl.verifiers import VERIFIERS, Judge, program

__all__ = ["ANSWERS", "judge_lines"]

BATCH = 256


def judge_lines(path: str | Path, verifier: str, sandbox: Requirement = "required") -> Iterator[dict[str, Any]]:
    """The verdict on each line of a file, in order: `{"id", "reward", "verdict", "reason"}`.

    A line has `id`, `response`, and what its verifier compares with (`ANSWERS`). Whatever the response is gives a
    verdict; lines go through the verifier in batches.

    Raises:
        UserError: no such file or verifier, a line that is not of this form, or (`program`) less than the full
            sandbox where it is required.
    """
    if verifier not in VERIFIERS:
        raise UserError(f"no verifier '{verifier}': {nearest(verifier, VERIFIERS)}")
    judge = partial(program.judge, sandbox=sandbox) if verifier == "program" else VERIFIERS[verifier]
    path = as_path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    with path.open("rb") as file:
        numbered = ((line, f"{path}, line {index}") for index, line in enumerate(file, 1) if line.strip())
        for batch in in_batches((read_line(line, where, verifier) for line, where in numbered), BATCH):
            for (problem, _), verdict in zip(batch, judge_responses(batch, judge), strict=True):
                yield {
                    "id": problem.columns["id"],
                    "reward": verdict.reward,
                    "verdict": verdict.outcome,
                    "reason": verdict.reason,
                }


T = TypeVar("T")


def in_batches(entries: Iterable[T], size: int) -> Iterator[list[T]]:
    """The entries in lists of at most `size`."""
    iterator = iter(entries)
    while batch := list(islice(iterator, size)):
        yield batch


def read_line(line: bytes, where: str, verifier: str) -> tuple[Problem, Any]:
    """The problem that a line stands for, its `id` among the columns, and the response, of whatever type it is."""
    values = parse_json(line, where)
    if not isinstance(values, dict):
        raise UserError(f'{where}: not a JSON object like {{"id": ..., "response": ...}}')
    identity, response = (require(values, name, where) for name in ("id", "response"))
    return Problem("", (), ANSWERS[verifier](values, where), columns={"id": identity}), response


def require(values: Mapping[str, Any], name: str, where: str) -> Any:
    """A field of a line."""
    if name not in values:
        raise UserError(f"{where}: no '{name}'; the line has: {', '.join(values) or 'nothing'}")
    return values[name]


def judge_responses(batch: Sequence[tuple[Problem, Any]], judge: Judge) -> list[Verdict]:
    """The verdicts on a batch; a response that is no string gets one too."""
    verdicts = iter(judge([(problem, response) for problem, response in batch if isinstance(response, str)]))
    return [
        next(verdicts)
        if isinstance(response, str)
        else Verdict(0.0, "unparsable", f"the response is no string, but {type(response).__name__}")
        for _, response in batch
    ]


def gold_text(values: Mapping[str, Any], where: str) -> str:
    """`answer`, a string or a number."""
    return read_gold(require(values, "answer", where), "answer", where)


def numbers_and_target(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """`numbers` and `target`, whole numbers."""
    numbers, target = require(values, "numbers", where), require(values, "target", where)
    if not isinstance(numbers, list):
        raise UserError(f"{where}: numbers should be a list like [7, 3, 5], not {numbers!r:.60}")
    for value in (*numbers, target):
        if isinstance(value, bool) or not isinstance(value, int):
            raise UserError(f"{where}: {value!r:.60} should be a whole number")
    return {"numbers": numbers, "target": target}


ANSWERS: Mapping[str, Callable[[dict[str, Any], str], Any]] = {
    "math": gold_text,
    "number": gold_text,
    "exact": gold_text,
    "countdown": numbers_and_target,
    "program": read_examination,
}
"""What each verifier compares with, `Problem.answer`, from the fields of a line and the line's place."""
