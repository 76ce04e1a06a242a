"""Processes that end with the one that started them, however that ended: SIGKILL gives nobody the time to tell them."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time

__all__ = ["PARENT", "end_with_launcher", "end_with_parent"]

PARENT = "SCORL_PARENT"
"""The environment variable by which a launcher tells a `scorl` that it starts to end with it: its process id."""
TORCHRUN = "TORCHELASTIC_RUN_ID"
"""What torchrun, started by the user, gives its ranks."""
PR_SET_PDEATHSIG = 1
PAUSE = 1.0
"""Seconds between two looks at the parent where the kernel does not tell of its end."""


def end_with_launcher() -> None:
    """End this process with its parent if that has started it as a rank, or as a run of a comparison."""
    named = os.environ.pop(PARENT, None)  # not for what this process starts
    if named is not None or TORCHRUN in os.environ:
        end_with_parent(int(named or os.getppid()))


def end_with_parent(parent: int) -> None:
    """Have this process killed as soon as its parent, a process id, has ended; at once if it has already.

    On Linux the kernel does so when the *thread* ends that started this process: start it from one that stays.
    """
    if sys.platform != "linux" or ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0):
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    _end_orphan(parent)


def _watch(parent: int) -> None:
    while True:
        time.sleep(PAUSE)
        _end_orphan(parent)


def _end_orphan(parent: int) -> None:
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
