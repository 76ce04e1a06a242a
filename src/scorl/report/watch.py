"""A run that is under way, as its files tell it: nothing is written, nothing locked, and the last line may be torn."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scorl.errors import UserError
from scorl.metrics import HEADLINES, VERIFIED, describe_alarms
from scorl.recipe.source import load
from scorl.report.facts import count_steps
from scorl.report.trajectories import ShownTrajectory, present, select
from scorl.run.directory import STEPS, RunDirectory
from scorl.run.files import Record
from scorl.run.history import find_fault

__all__ = ["FIGURES", "Tail", "WatchedRun", "sparkline"]

FIGURES = {
    **HEADLINES,
    **VERIFIED,
    "KL t1": "kl_t1",
    "KL t2": "kl_t2",
    "truncated": "truncated",
    "no advantage": "frac_reward_zero_std",
    "loss": "loss",
    "gradient": "grad_norm",
    "tokens": "tokens",
}
"""What of a step is shown, by what it is called."""
BLOCKS = "▁▂▃▄▅▆▇█"
SMOOTHED = 20
"""Steps over which the rate is taken."""
LOOKED_THROUGH = 5
"""Steps whose attempts are looked through for one that was corrected."""


@dataclass
class Tail:
    """The records of a file that grows, each read once; a file that was cut or replaced is read anew."""

    path: Path
    records: list[Record] = field(default_factory=list)
    _at: int = 0
    _file: tuple[int, int] | None = None

    def refresh(self) -> int:
        """Read what is new; how many records that were."""
        try:
            with self.path.open("rb") as handle:
                state = self.path.stat()
                file = (state.st_dev, state.st_ino)
                if file != self._file or state.st_size < self._at:
                    self.records, self._at, self._file = [], 0, file
                handle.seek(self._at)
                new, _, _ = handle.read().rpartition(b"\n")
        except OSError:  # not there yet, or another machine's disk is away for a moment
            return 0
        self._at += len(new) + bool(new)
        found = [record for line in new.splitlines() if (record := _read(line)) is not None]
        self.records += found
        return len(found)


@dataclass
class WatchedRun:
    """What is known of a run so far."""

    run: RunDirectory
    clock: Callable[[], float] = time.time
    total: int | None = None
    """Steps in all; None: the recipe is not there yet, or does not say."""
    split: str = "test"
    history: Sequence[Record] = ()
    """The held-out evaluations."""
    attempt: ShownTrajectory | None = None
    """One of the newest that were corrected."""
    _tail: Tail = field(init=False)

    def __post_init__(self) -> None:
        self._tail = Tail(self.run.path / STEPS)

    def refresh(self) -> int:
        """Read what is new; how many steps that were."""
        if self.total is None:
            self._read_recipe()
        new = self._tail.refresh()
        with suppress(UserError, OSError):  # it is being copied here from elsewhere
            self.history = self.run.evaluations().get(self.split, {}).get("history", ())
        if new:
            self.attempt = self._find_corrected() or self.attempt
        return new

    @property
    def steps(self) -> list[Record]:
        """The lines of the steps so far."""
        return self._tail.records

    @property
    def done(self) -> bool:
        """Whether all steps are made and evaluated."""
        return self.total is not None and any(entry["step"] == self.total for entry in self.history)

    @property
    def seconds_per_step(self) -> float | None:
        """Of the last steps, without what lies between them."""
        last = self.steps[-SMOOTHED:]
        return sum(sum(step["seconds"].values()) for step in last) / len(last) if last else None

    @property
    def silent_for(self) -> float | None:
        """Seconds since a step or an evaluation was written; None: nothing was."""
        times = [path.stat().st_mtime for path in (self._tail.path, self.run.path) if path.exists()]
        return max(0.0, self.clock() - max(times)) if times else None

    @property
    def alarms(self) -> list[str]:
        """What seems to go wrong, a sentence each."""
        return describe_alarms(self.steps, done=self.done)

    def series(self, key: str) -> list[float | None]:
        """A figure, step by step."""
        return [step.get(key) for step in self.steps]

    def _read_recipe(self) -> None:
        with suppress(UserError):
            recipe = load(self.run.path) if self.run.has_recipe else {}
            evaluation = recipe.get("evaluation")
            self.total = count_steps(recipe)
            self.split = str(evaluation.get("split", "test")) if isinstance(evaluation, dict) else "test"

    def _find_corrected(self) -> ShownTrajectory | None:
        for step in reversed(self.run.attempted_steps()[-LOOKED_THROUGH:]):
            try:
                for responses in select(self.run.attempts([step]), flip="fixed"):
                    return present(responses)
            except (UserError, OSError):
                continue
        return None


def sparkline(values: Sequence[float | None], width: int = 32) -> str:
    """A curve in one line of text, of at most so many characters; each is the mean of a part.

    >>> sparkline([0.0, 0.5, None, 1.0])
    '▁▅ █'
    """
    parts = list(_divide(values, width))
    known = [part for part in parts if part is not None]
    if not known:
        return ""
    low, span = min(known), max(known) - min(known)
    places = [None if part is None else round((part - low) / span * (len(BLOCKS) - 1)) if span else 0 for part in parts]
    return "".join(" " if place is None else BLOCKS[place] for place in places)


def _divide(values: Sequence[float | None], width: int) -> Iterator[float | None]:
    count = min(width, len(values))
    for k in range(count):
        part = [v for v in values[k * len(values) // count : (k + 1) * len(values) // count] if v is not None]
        yield sum(part) / len(part) if part else None


def _read(line: bytes) -> Record | None:
    try:
        record: Any = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and record.get("seconds") is not None and not find_fault(record) else None
