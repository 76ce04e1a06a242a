"""Which processes somebody has started, and whether they are gone."""

import os
import time
from pathlib import Path

__all__ = ["cpu_seconds", "descendants", "is_running", "survivors"]


def descendants(process: int) -> list[int]:
    """The children of a process, theirs, and so on."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(") ")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    found, new = [], [process]
    while new:
        new = [child for parent in new for child in children.get(parent, [])]
        found += new
    return found


def is_running(process: int) -> bool:
    """Whether there is such a process, and it is more than an entry that nobody has asked for."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def survivors(processes: list[int], seconds: float) -> list[int]:
    """Those of the processes that still run after so many seconds; it does not wait longer than for their end."""
    give_up = time.monotonic() + seconds
    while (running := [process for process in processes if is_running(process)]) and time.monotonic() < give_up:
        time.sleep(0.02)
    return running


def cpu_seconds(process: int) -> float:
    """What a process has used of the processor; 0: it is gone."""
    try:
        user, system = Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2].split()[11:13]
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
