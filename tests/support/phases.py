"""What a run is at, which it writes itself to a file beside its folder, for whoever watches it from outside."""

import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from scorl.learner import Learner
from scorl.run import checkpoint
from scorl.run.directory import RunDirectory
from scorl.run.run import _Run
from scorl.training.batches import Batches

__all__ = ["mark_phases", "phase_file", "read_phase"]

WIDTH = 32
"""Bytes of the file, which is written in one go."""
MARKED: dict[str, tuple[Any, str]] = {
    "evaluating": (_Run, "evaluate"),
    "collecting": (Batches, "_collect"),
    "sampling": (Batches, "_groups"),
    "learning": (Learner, "update"),
    "recording": (RunDirectory, "record_step"),
    "saving": (checkpoint.Saver, "save"),
    "pruning": (checkpoint, "prune"),
}
"""The function that each of a run's phases is, where it is looked up."""


def phase_file(run: Path) -> Path:
    """Of a run."""
    return run.with_suffix(".phase")


def read_phase(run: Path) -> str:
    """Of `MARKED`, or "sampled" until that is learned from, or "between"; empty before the first of them."""
    try:
        return phase_file(run).read_text().strip()
    except FileNotFoundError:
        return ""


def mark_phases(run: Path) -> None:
    """Have this process write what it is at; as long as it lives."""
    file, here = os.open(phase_file(run), os.O_CREAT | os.O_WRONLY), ""

    def mark(phase: str) -> None:
        nonlocal here
        here = phase
        os.pwrite(file, phase.ljust(WIDTH).encode(), 0)

    def marked(phase: str, work: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(work)
        def inner(*arguments: Any, **settings: Any) -> Any:
            before = here
            within = before in MARKED
            mark(before if before == "collecting" else phase)  # which samples
            try:
                return work(*arguments, **settings)
            finally:
                mark(before if within else "sampled" if phase == "sampling" else "between")

        return inner

    mark("")
    for phase, (owner, name) in MARKED.items():
        setattr(owner, name, marked(phase, getattr(owner, name)))
