"""The attempts of a run or of an evaluation, wherever they lie."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from scorl.errors import UserError
from scorl.run.directory import ATTEMPTS, HELD_OUT, RunDirectory
from scorl.run.files import Record, read_responses

__all__ = ["read_attempts"]


def read_attempts(path: Path | str, step: int | None = None, held_out: bool = False) -> Iterator[Record]:
    """The attempts of a file, in its order; or of a run directory or a folder of attempts in it, the newest first.

    Args:
        path: of it.
        step: the one whose attempts are wanted; None: all.
        held_out: those of a run's evaluations, by the updates before them.

    Raises:
        UserError: there is nothing to read, or a line is no attempt.
    """
    path = Path(path)
    if path.is_dir():
        held_out |= path.name == HELD_OUT
        run = RunDirectory(path.parent if path.name in (ATTEMPTS, HELD_OUT) else path)
        steps = run.attempted_steps(held_out)
        if not steps:
            raise UserError(f"no attempts in {path}: give a run directory with an {ATTEMPTS}/ folder, or a JSONL file")
        if step is not None and step not in steps:
            what = "evaluation after so many steps" if held_out else "step"
            raise UserError(f"{path}: there is no {what} {step} with attempts; there are {list_ranges(steps)}")
        yield from run.attempts(steps[::-1] if step is None else [step], held_out)
        return
    if held_out:
        raise UserError(f"{path}: only a run directory has held-out attempts of its own")
    yield from (record for record in read_responses(path) if step in (None, record["step"]))


def list_ranges(numbers: Sequence[int]) -> str:
    """Numbers in order, those that follow one another in short.

    >>> list_ranges([0, 1, 2, 5, 7, 8])
    '0 to 2, 5, 7 to 8'
    """
    there = set(numbers)
    starts, ends = ([n for n in numbers if n + step not in there] for step in (-1, 1))
    return ", ".join(f"{a}" if a == b else f"{a} to {b}" for a, b in zip(starts, ends, strict=True))
