"""What may come between a run and its end: Ctrl-C, SIGTERM, another process in its directory."""

from __future__ import annotations

import fcntl
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from scorl.errors import UserError

__all__ = ["alone", "interruptible"]


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """The first Ctrl-C or SIGTERM asks the run to save after its step; a second one ends it at once."""
    asked: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    here = threading.current_thread() is threading.main_thread()  # elsewhere signals cannot be caught
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM) if here}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Hold a run directory; the system lets go of it however the process ends.

    Raises:
        UserError: another process is at work there.
    """
    with (directory / ".lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"{directory}: another process is at work there") from None
        yield
