"""Files: JSON records, one a line; and writing whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scorl.errors import UserError
from scorl.trajectory import Credit, Trajectory

__all__ = ["Record", "read_records", "replacing", "response_records", "write_whole"]

Record = dict[str, Any]
"""One line of a JSONL file."""


def response_records(step: int, trajectory: Trajectory, credits: Sequence[Credit] | None = None) -> list[Record]:
    """A trajectory's responses as lines of `attempts/`; without credits (an evaluation) the credit's keys are null."""
    records = []
    attempt = -1
    for place, response in enumerate(trajectory.responses):
        attempt += response.role == "attempt"
        verdict, credit = response.verdict, credits[place] if credits else None
        record = {
            "step": step,
            "problem": trajectory.problem.id,
            "sample": trajectory.sample,
            "turn": attempt,
            "prompt_tokens": len(response.prompt_ids),
            "tokens": len(response.ids),
            "text": response.text,
            "reward": verdict and verdict.reward,
            "finish": response.finish,
            "policy": response.policy,
            "advantage": credit and credit.advantage,
            "beta": credit and credit.beta,
            "imitation": credit and credit.imitation,
            "verdict": verdict and verdict.outcome,
            "reason": verdict and verdict.reason,
            "answer": verdict and verdict.answer,
            "question": trajectory.problem.prompt[-1]["content"],
            "branch": trajectory.branch,
            "place": place,
            "role": response.role,
            "offline": response.offline,
        }
        records.append(record)
    return records


def read_records(file: Path) -> Iterator[Record]:
    """The JSON objects of a file, one a line; a last line that is still being written is left out.

    Raises:
        UserError: a line is no JSON object.
    """
    with file.open(encoding="utf-8") as handle:
        for number, text in enumerate(handle, 1):
            try:
                record = json.loads(text)
            except ValueError as error:
                if not text.endswith("\n"):
                    return
                raise UserError(f"{file}, line {number} is no JSON: {error}") from None
            if not isinstance(record, dict):
                raise UserError(f"{file}, line {number} is no JSON object")
            yield record


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A draft beside `path`, which takes its place when the block ends well and is gone when not."""
    draft = path.with_name(f".{os.getpid()}.draft.{path.name}")
    try:
        yield draft
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def write_whole(path: Path, text: str) -> None:
    """Write a file whole or not at all; a lone surrogate is written as its escape, which JSON understands."""
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8", errors="backslashreplace")
