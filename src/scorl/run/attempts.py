"""The attempts of a run or of an evaluation, wherever they lie."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from scorl.errors import UserError
from scorl.run.directory import ATTEMPTS, RunDirectory
from scorl.run.files import Record, read_responses

__all__ = ["read_attempts"]


def read_attempts(path: Path | str) -> Iterator[Record]:
    """The attempts of a file, of a run directory or of its folder of attempts, in the order of steps.

    Raises:
        UserError: there is nothing to read, or a line is no attempt.
    """
    path = Path(path)
    if path.is_dir():
        run = RunDirectory(path.parent if path.name == ATTEMPTS else path)
        if not run.attempted_steps():
            raise UserError(f"no attempts in {path}: give a run directory with an {ATTEMPTS}/ folder, or a JSONL file")
        yield from run.attempts()
        return
    yield from read_responses(path)
