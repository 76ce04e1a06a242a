"""Peak memory: the largest resident size during a piece of work, less that before it."""

from __future__ import annotations

import ctypes
import os
import threading
from pathlib import Path

__all__ = ["Peak"]


class Peak:
    """The largest resident size, in MiB, within a `with` block, over that before."""

    def __enter__(self) -> Peak:
        self._done = threading.Event()
        ctypes.CDLL(None).malloc_trim(0)  # what earlier updates freed would otherwise hide what this one takes
        self._before, self.mib = _resident(), 0.0
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.01):
            self.mib = max(self.mib, _resident() - self._before)


def _resident() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
