"""Peak memory: the largest resident size during a piece of work, less that before it."""

from __future__ import annotations

import ctypes

from scorl.estimate import measured

__all__ = ["Peak"]


class Peak(measured.Peak):
    """The largest resident size, in MiB, within a `with` block, over that before."""

    def __enter__(self) -> Peak:
        ctypes.CDLL(None).malloc_trim(0)  # what earlier updates freed would otherwise hide what this one takes
        super().__enter__()
        self._before = self.bytes
        return self

    @property
    def mib(self) -> float:
        """So many MiB."""
        return (self.bytes - self._before) / 2**20
