"""A sandbox for programs that nobody trusts, and an examination whose tests stay on the trusted side; docs/code.md.

Covered, at the full level (bubblewrap, Linux):
- files: a program sees the interpreter and shared libraries, read-only, and an empty folder; no secret, no /proc
- network, other processes, shared memory, users: namespaces of its own, without capabilities; 33 system calls refused
- processor and wall time, memory, processes, file size, descriptors; nothing that it started outlives it
- the verdict: expected values never enter the program's process, what comes back is rebuilt as plain data and never
  unpickled, and leaving early, printing or equalling everything is no success

Not covered:
- kernel exploits: one kernel serves all; the seccomp filter makes its surface smaller, no more
- side channels (timing, caches), and the space of the machine's disk beyond 64 MB a file at the reduced level
- at the reduced level (no bubblewrap): the machine's files, its network and the caller's processes
- programs that look answers up which their prompt showed, and tests that let an object of the program judge itself

It imports nothing of scorl but errors, and what ends a process with its parent. It is finished: new features wait for
a model that is trained on code and needs them.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

__all__ = ["EndedError", "Judgement", "LateError", "Requirement", "SandboxError"]

Requirement = Literal["required", "preferred"]
"""Whether anything less than the full sandbox is refused, or taken with a warning."""


class Judgement(NamedTuple):
    """What came of a program, as `trajectory.Verdict` says it: `passed`, `failed`, `timeout`, ..., and why."""

    outcome: str
    reason: str


class SandboxError(RuntimeError):
    """The sandbox broke several times in a row; no verdict can be given."""


class LateError(Exception):
    """The other process did not answer in time."""


class EndedError(Exception):
    """The other process is gone."""
