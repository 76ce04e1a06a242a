"""The run directory's files: an attempt as a line of JSON, reading lines back, writing files whole."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scorl.errors import UserError
from scorl.trajectory import Attempt, Credit, Trajectory

__all__ = ["Line", "attempt_line", "read_attempts", "read_evaluations", "read_lines", "write_text"]

Line = dict[str, Any]
"""One line of a JSONL file."""


def attempt_line(step: int, attempt: Attempt, trajectory: Trajectory, credit: Credit | None = None) -> Line:
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


def read_attempts(path: Path | str) -> Iterator[Line]:
    """The attempts of a file, of a run directory or of its `attempts/`, in the order of steps.

    Raises:
        UserError: there is nothing to read, or a line is no attempt.
    """
    for file in _attempt_files(Path(path)):
        for line in read_lines(file):
            if "turn" not in line:
                raise UserError(f"{file} holds no attempts: its lines have no `turn`")
            yield line


def read_lines(file: Path) -> Iterator[Line]:
    """The JSON objects of a file, one a line; a last line that is still being written is left out.

    Raises:
        UserError: a line is no JSON object.
    """
    with file.open(encoding="utf-8") as handle:
        for number, text in enumerate(handle, 1):
            try:
                line = json.loads(text)
            except ValueError as error:
                if not text.endswith("\n"):
                    return
                raise UserError(f"{file}, line {number} is no JSON: {error}") from None
            if not isinstance(line, dict):
                raise UserError(f"{file}, line {number} is no JSON object")
            yield line


def read_evaluations(directory: Path) -> dict[str, Any] | None:
    """What evaluation.json of a run directory holds, by split; None: there is none yet.

    Raises:
        UserError: it is no JSON.
    """
    path = directory / "evaluation.json"
    try:
        found: dict[str, Any] | None = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    except ValueError as error:
        raise UserError(f"{path} is no JSON: {error}") from None
    return found


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all; a lone surrogate is written as its escape, which JSON understands."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    draft.write_text(text, encoding="utf-8", errors="backslashreplace")
    os.replace(draft, path)


def _attempt_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    folder = path / "attempts" if (path / "attempts").is_dir() else path
    files = sorted(folder.glob("*.jsonl")) if folder.name == "attempts" else []
    if not files:
        raise UserError(f"no attempts in {path}: give a run directory with an attempts/ folder, or a JSONL file")
    return files
