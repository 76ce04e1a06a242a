"""Control groups (version 1 or 2): limits of memory and processes for a whole group of processes."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

__all__ = ["ControlGroup"]

ROOT = Path("/sys/fs/cgroup")
FILES = {
    "memory": ("memory.limit_in_bytes", "memory.max", "memory.memsw.limit_in_bytes", "memory.swap.max"),
    "pids": ("pids.max",),
}
"""The files that hold the limits; of each, those that exist are written."""


class ControlGroup:
    """A group of this process's making, of which programs become members one after the other."""

    def __init__(self, memory: int, processes: int) -> None:
        self.folders: list[Path] = []
        for controller, value in (("memory", memory), ("pids", processes)):
            folder = parent_folder(controller) / f"scorl-{os.getpid()}"
            folder.mkdir(exist_ok=True)
            if folder not in self.folders:
                self.folders.append(folder)
            for name in FILES[controller]:
                with contextlib.suppress(OSError):
                    (folder / name).write_text("0" if "swap.max" in name else str(value))
            # Writing may succeed without effect; only a limit that reads back as it was written is one.
            if read_limit(folder, controller) != value:
                raise OSError(f"{folder} takes no limit")

    @staticmethod
    def is_possible() -> bool:
        """Whether such a group can be made and limited here."""
        try:
            ControlGroup(1 << 30, 64).remove()
        except OSError:
            return False
        return True

    def join(self) -> None:
        """Makes the calling process a member."""
        for folder in self.folders:
            (folder / "cgroup.procs").write_text("0")

    def member_pids(self) -> list[int]:
        """The processes in it."""
        return [int(line) for line in (self.folders[0] / "cgroup.procs").read_text().split()]

    def count_out_of_memory(self) -> int:
        """How often a member was ended for want of memory."""
        for name in ("memory.oom_control", "memory.events"):
            with contextlib.suppress(OSError):
                words = (self.folders[0] / name).read_text().split()
                return int(words[words.index("oom_kill") + 1])
        return 0

    def remove(self) -> None:
        """Takes the group away; it has to be empty. Also takes away those that a killed process left."""
        for folder in self.folders:
            for old in folder.parent.glob("scorl-*"):
                if old == folder or not Path(f"/proc/{old.name.partition('-')[2]}").exists():
                    with contextlib.suppress(OSError):
                        old.rmdir()


def parent_folder(controller: str) -> Path:
    """Where this process may make groups of a controller.

    Raises:
        OSError: there are no control groups, or not this one.
    """
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        number, names, place = line.split(":", 2)
        if number == "0" and not names and (ROOT / "cgroup.controllers").exists():
            return ROOT / place.lstrip("/")
        if controller in names.split(","):
            return ROOT / controller / place.lstrip("/")
    raise OSError(f"no control group of {controller}")


def read_limit(folder: Path, controller: str) -> int | None:
    """The limit that holds."""
    for name in FILES[controller][:2]:
        with contextlib.suppress(OSError, ValueError):
            return int((folder / name).read_text())
    return None
