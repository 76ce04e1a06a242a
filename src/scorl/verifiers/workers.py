"""Worker processes for symbolic comparisons, each of which may hang and is then killed.

A worker is an own interpreter (`subprocess`, never a fork of a process with threads), started when it is
first needed and in a session of its own, so that Ctrl-C reaches the parent alone. It ends with its parent:
its input closes, and an alarm stands behind every check.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from scorl.errors import UserError
from scorl.sandbox.workers import Crew

__all__ = ["Check", "Outcome", "compare_all", "pids"]

PROGRAM = Path(__file__).with_name("symbolic.py")
START_SECONDS = 120.0
"""An own limit for starting an interpreter and importing math-verify (1.5 s on an idle machine)."""


class Check(NamedTuple):
    """One comparison: gold answer and answer as light normalisation spells them, and as they were written."""

    gold: str
    answer: str
    written_gold: str
    written_answer: str


class Outcome(NamedTuple):
    """What came of a check: equal or not, and else why it could not be said."""

    equal: bool
    problem: str = ""
    """Empty, `unparsable`, `timeout` or `error`."""
    reason: str = ""


class Worker:
    """One worker process; `check` starts it where it is not running."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> subprocess.Popen[str]:
        """Starts the process and waits until it has imported what it needs."""
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(PROGRAM)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        if self.read(self.process, START_SECONDS) is None:
            self.kill()
            raise RuntimeError(f"the math-verify worker does not start; try: {sys.executable} -P {PROGRAM}")
        return self.process

    def kill(self) -> None:
        """Ends the process and takes its exit status, so that no zombie stays."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None

    def read(self, process: subprocess.Popen[str], seconds: float) -> str | None:
        """The next line, or None when the process ended or had to be killed first."""
        assert process.stdout is not None
        timer = threading.Timer(seconds, process.kill)
        timer.start()
        try:
            return process.stdout.readline() or None
        finally:
            timer.cancel()

    def check(self, check: Check, seconds: float) -> Outcome:
        """Compares within a wall-time limit; what takes longer is killed."""
        process = self.process or self.start()
        assert process.stdin is not None
        pairs = ((check.gold, check.answer), (check.written_gold, check.written_answer))
        begun = time.monotonic()
        try:
            process.stdin.write(json.dumps([pairs, seconds]) + "\n")
            process.stdin.flush()
            line = self.read(process, seconds)
        except BrokenPipeError:
            line = None
        if line is not None:
            return outcome(json.loads(line))
        self.kill()
        if time.monotonic() - begun >= seconds:
            return Outcome(False, "timeout", f"not compared within {seconds:g} s")
        return Outcome(False, "error", "the comparison ended its worker process")


def outcome(reply: list[bool] | list[str]) -> Outcome:
    """A worker's reply as an outcome."""
    if len(reply) == 1:
        return Outcome(False, "error", str(reply[0]))
    equal, readable = reply
    if not readable:
        return Outcome(False, "unparsable", "the final answer does not read as mathematics")
    return Outcome(bool(equal))


@cache
def pool(process: int) -> Crew[Worker]:
    """The workers of this process; a forked child passes another id and gets its own.

    Raises:
        UserError: math-verify is not installed.
    """
    if find_spec("math_verify") is None:
        raise UserError("judging this answer needs math-verify, which is not installed: pip install 'scorl[math]'")
    return Crew(Worker, Worker.kill, "math-verify")


def compare_all(checks: Sequence[Check], seconds: float) -> list[Outcome]:
    """The outcome of each check, in order; each has `seconds` of wall time.

    Raises:
        UserError: math-verify is not installed.
    """
    if not checks:
        return []
    return pool(os.getpid()).map(lambda worker, check: worker.check(check, seconds), checks)


def pids() -> list[int]:
    """The process ids of the running workers."""
    return [worker.process.pid for worker in pool(os.getpid()).helpers if worker.process is not None]
