"""Brokers, one per core: examinations go to whichever is idle, and a broken sandbox is tried again.

That the sandbox broke is never a verdict: it says nothing about the program. It is retried with a new broker,
then it is an error.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Literal, NamedTuple

from scorl.errors import UserError
from scorl.sandbox.workers import Crew

__all__ = ["Requirement", "SandboxError", "examine_all", "found_level", "pids", "scale"]

Requirement = Literal["required", "preferred"]
"""Whether anything less than the full sandbox is refused, or taken with a warning."""
MEMORY, PROCESSES = 1 << 30, 64
"""Bytes, and processes and threads, of one program."""
TRIES = 3
SLACK = 130.0
"""Seconds beyond an examination's own limits after which its broker is given up: two sandboxes may have to start."""
REFERENCE = 0.0016
"""Processor seconds of `workload` on the machine that a `timeout` of one second is meant for."""
KEPT = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "LANG", "TMPDIR")
"""What a broker keeps of the environment; everything else could be a secret."""


STARTING = threading.Lock()
"""Held while the first broker is started to see how well it holds programs."""


class SandboxError(RuntimeError):
    """The sandbox broke several times in a row; no verdict can be given."""


class Answer(NamedTuple):
    """A verdict's word and its reason."""

    verdict: str
    reason: str


class Slot:
    """One broker; started when it is first needed."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None
        self.level = ("", "")

    def start(self) -> subprocess.Popen[str]:
        """Starts the broker and reads how well it can hold programs."""
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "scorl.sandbox.broker", str(MEMORY), str(PROCESSES)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={name: os.environ[name] for name in KEPT if name in os.environ},
        )
        line = self.read(SLACK)
        if line is None:
            self.end()
            raise SandboxError("the broker of programs does not start: python -m scorl.sandbox.broker")
        self.level = tuple(json.loads(line)["level"])
        return self.process

    def end(self) -> None:
        """Ends the broker; with it everything that it started."""
        if self.process is None:
            return
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.process = None

    def read(self, seconds: float) -> str | None:
        """The next line, or None when the broker ended or had to be killed first."""
        assert self.process is not None
        assert self.process.stdout is not None
        timer = threading.Timer(seconds, self.process.kill)
        timer.start()
        try:
            return self.process.stdout.readline() or None
        finally:
            timer.cancel()

    def examine(self, task: Mapping[str, Any]) -> Answer:
        """The verdict on one program.

        Raises:
            SandboxError: the sandbox broke every time.
        """
        reason = ""
        for _ in range(TRIES):
            process = self.process or self.start()
            assert process.stdin is not None
            try:
                process.stdin.write(json.dumps(task) + "\n")
                process.stdin.flush()
                line = self.read((2 * task["seconds"] + 1) * len(task.get("pairs", "1")) + SLACK)
            except BrokenPipeError:
                line = None
            answer = json.loads(line) if line else {"broken": "its broker ended"}
            if "verdict" in answer:
                return Answer(answer["verdict"], answer["reason"])
            reason = answer["broken"]
            self.end()
        if self.level[0] == "reduced" and line is None:
            return Answer("forbidden", "ended the process that watches it, which the reduced sandbox does not prevent")
        raise SandboxError(f"the sandbox broke {TRIES} times in a row: {reason}")


@cache
def pool(process: int) -> Crew[Slot]:
    """The brokers of this process; a forked child passes another id and gets its own."""
    return Crew(Slot, Slot.end, "programs")


def found_level() -> tuple[str, str]:
    """`full`, `reduced` or (on other systems than Linux) `none`, and what that means here."""
    if sys.platform != "linux":
        return "none", "programs are run on Linux alone"
    slot = pool(os.getpid()).helpers[0]
    with STARTING:
        if not slot.level[0]:
            slot.start()
    return slot.level


def examine_all(tasks: Sequence[Mapping[str, Any]], sandbox: Requirement) -> list[Answer]:
    """The verdict on each program, in order.

    Raises:
        UserError: the full sandbox is required and not to be had.
        SandboxError: the sandbox broke several times in a row.
    """
    if not tasks:
        return []
    name, reason = found_level()
    if name != "full":
        if name == "none":
            raise UserError(reason)
        if sandbox == "required":
            raise UserError(
                f"programs can only be run in a reduced sandbox here: {reason}. Allow it with sandbox=preferred where "
                "you trust the programs (docs/code.md)"
            )
        warn_once(reason)
    return pool(os.getpid()).map(Slot.examine, tasks)


@cache
def warn_once(reason: str) -> None:
    """Says on stderr, once a process, that programs are not held well."""
    print(f"warning: programs run in the REDUCED sandbox: {reason}", file=sys.stderr)


def pids() -> list[int]:
    """The process ids of the brokers."""
    return [slot.process.pid for slot in pool(os.getpid()).helpers if slot.process is not None]


@cache
def scale() -> float:
    """How much slower this machine runs Python than the one that time limits are meant for (above 1: slower)."""
    return min(max(min(workload() for _ in range(100)) / REFERENCE, 0.25), 10.0)


def workload() -> float:
    """Processor seconds that a fixed piece of work takes."""
    begun = time.thread_time()
    numbers, total = {}, 0
    for index in range(10_000):
        total = (total * 31 + index) % 1_000_003
        numbers[total % 997] = [index, total]
    return time.thread_time() - begun + 0 * len(numbers)
