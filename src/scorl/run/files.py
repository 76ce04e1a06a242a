"""Files: JSON records, one a line; and writing whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scorl.errors import UserError
from scorl.trajectory import Attempt, Credit, Trajectory

__all__ = ["Record", "attempt_record", "read_records", "replacing", "write_whole"]

Record = dict[str, Any]
"""One line of a JSONL file."""


def attempt_record(step: int, attempt: Attempt, trajectory: Trajectory, credit: Credit | None = None) -> Record:
    """One attempt as a line of `attempts/`; without a credit (an evaluation) the credit's keys are null."""
    return {
        "step": step,
        "problem": trajectory.problem.id,
        "sample": trajectory.sample,
        "turn": attempt.turn,
        "prompt_tokens": len(attempt.prompt_ids),
        "tokens": len(attempt.ids),
        "text": attempt.text,
        "reward": attempt.reward,
        "finish": attempt.finish,
        "policy": attempt.policy,
        "advantage": credit and credit.advantage,
        "beta": credit and credit.beta,
        "imitation": credit and credit.imitation,
        "verdict": attempt.verdict.outcome,
        "reason": attempt.verdict.reason,
        "answer": attempt.verdict.answer,
        "question": trajectory.problem.prompt[-1]["content"],
        "branch": trajectory.branch,
        "given": attempt.given,
        "critiques": list(attempt.critiques),
    }


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
    draft = path.with_name(f".{os.getpid()}.draft.{path.name}")  # the name's ending stays: matplotlib goes by it
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
