"""The broker: a small process that starts programs and examiners, carries frames between them, and judges ends.

It is started by the process that wants verdicts (never forked from it), takes one examination a line on its
stdin, and answers with one line. It has a single thread, and neither parses nor runs anything of a program.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
import time
from dataclasses import dataclass
from typing import Any

from scorl.sandbox.bubblewrap import Level, level
from scorl.sandbox.cgroups import Group
from scorl.sandbox.process import BrokenError, Child, EndedError, LateError
from scorl.sandbox.proxy import SENT
from scorl.sandbox.wire import LONGEST, WireError, decode, encode, plain

__all__ = ["Broker", "main"]

PROGRAM = ("wire", "candidate")
EXAMINER = ("wire", "candidate", "proxy", "examiner")
OUTPUT = 1 << 20
"""The most bytes that a program may print in a test of its output."""
GRACE = 2.0
"""Seconds for an examiner to say at which test a program ended."""
PR_SET_CHILD_SUBREAPER = 36
FIXED = {"NOFILE": 256, "CORE": 0, "FSIZE": 64 << 20}
Verdict = tuple[str, str]


@dataclass
class Talk:
    """A conversation between the tests and a program."""

    program: Child
    deadline: float
    load: bytes
    """What loads the program; it takes the place of the first request."""
    over: Verdict | None = None
    """The verdict, once the program has ended."""


class Broker:
    """One program at a time, by an examiner that is kept between them."""

    def __init__(self, level: Level, memory: int, processes: int) -> None:
        self.level, self.memory, self.processes = level, memory, processes
        self.group = Group(memory, processes) if level.groups else None
        self.examiner: Child | None = None

    def close(self) -> None:
        """Ends what runs."""
        if self.examiner is not None:
            self.examiner.end()
            self.examiner = None
        if self.group is not None:
            self.group.remove()

    def reap(self) -> None:
        """Takes the exit status of whatever lost its parent and so became a child of ours."""
        kept = self.examiner.process.pid if self.examiner else 0
        with contextlib.suppress(ChildProcessError):
            while (found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) and found.si_pid != kept:
                os.waitpid(found.si_pid, 0)

    def limits(self, seconds: float) -> dict[str, int]:
        """Resource limits of each process of a program."""
        limits = {**FIXED, "CPU": int(seconds) + 1, "AS": self.memory}
        return limits if self.level.bubblewrap is None else {**limits, "NPROC": self.processes}

    def examine(self, task: dict[str, Any]) -> Verdict:
        """The verdict on a program.

        Raises:
            BrokenError: the sandbox does not stand; the program has not been started.
        """
        if "pairs" in task:
            return self.by_output(task)
        examiner, seconds = self.ready_examiner(), float(task["seconds"])
        program = self.start(task["stdin"], None, seconds)
        deadline = time.monotonic() + 2 * seconds + 1
        limits = {"CPU": 4 * int(seconds) + 10, "AS": 4 * self.memory}
        tests = encode((limits, task["setup"], task["tests"], task["entry_point"]), plain, 1 << 30)
        load = encode(("load", task["program"]), plain, 1 << 30)
        try:
            examiner.send(tests, deadline)
            return self.conversation(Talk(program, deadline, load), examiner)
        finally:
            program.end()

    def start(self, stdin: str, script: str | None, seconds: float) -> Child:
        """A sandbox that stands and knows its limits, but no program yet, or only the script."""
        program = Child(self.level, PROGRAM, self.group, 2 * LONGEST)
        try:
            program.send(encode((self.limits(seconds), stdin, script), plain, 1 << 30), program.start_limit)
        except (LateError, EndedError) as error:
            program.end()
            raise BrokenError("the sandbox ended before the program began") from error
        return program

    def conversation(self, talk: Talk, examiner: Child) -> Verdict:
        """Carries requests to the program and its answers back, until there is a verdict."""
        while True:
            try:
                frame = examiner.receive(talk.deadline)
                if frame[:1] == b"c":
                    examiner.send(self.carried(talk, frame[1:]), talk.deadline)
            except (LateError, EndedError, WireError) as error:
                examiner.end()
                self.examiner = None
                word = "timeout" if isinstance(error, LateError) else "error"
                return talk.over or (word, "the tests did not come to an end")
            if frame[:1] == b"v":
                word, reason = decode(frame[1:], plain)
                talk.over = (talk.over[0], reason + talk.over[1]) if talk.over else (word, reason)
            elif frame[:1] == b"e":
                return talk.over or ("error", "the tests ended their interpreter, perhaps for want of memory")

    def carried(self, talk: Talk, request: bytes) -> bytes:
        """The program's answer to a request; nothing once it has ended."""
        if talk.over is None:
            try:
                talk.program.send(talk.load or request, talk.deadline)
                talk.load, answer = b"", talk.program.receive(talk.deadline)
                if not answer:
                    raise WireError("an empty frame")
                return answer
            except (LateError, EndedError, WireError) as error:
                talk.over = self.ending(talk.program, error)
                talk.deadline = time.monotonic() + GRACE
        return b""

    def ready_examiner(self) -> Child:
        """The examiner, started where there is none."""
        if self.examiner is None or self.examiner.process.poll() is not None:
            self.examiner = Child(self.level, EXAMINER, None, 2 * SENT)
        return self.examiner

    def by_output(self, task: dict[str, Any]) -> Verdict:
        """The verdict by pairs of input and output, each of them a run of its own."""
        for number, (given, wanted) in enumerate(task["pairs"], 1):
            word, reason = self.run(task["program"], given, wanted, float(task["seconds"]))
            if word != "passed":
                return word, f"test {number} of {len(task['pairs'])}: {reason}"
        return "passed", ""

    def run(self, text: str, given: str, wanted: str, seconds: float) -> Verdict:
        """The verdict on one run of a program as the main one."""
        program = self.start(given, text, seconds)
        try:
            printed = program.output(OUTPUT, time.monotonic() + 2 * seconds + 1)
            status = program.status()
        except (LateError, EndedError, WireError) as error:
            return self.ending(program, error)
        finally:
            program.end()
        if status:
            return self.cause(program, status)
        same = lines(printed.decode("utf-8", "replace")) == lines(wanted)
        return ("passed", "") if same else ("failed", f"printed {printed[:100]!r}")

    def ending(self, program: Child, error: Exception) -> Verdict:
        """Why a program did not answer."""
        if isinstance(error, LateError):
            return "timeout", "not done in time"
        if isinstance(error, WireError):
            return "error", "what it wrote on our pipe does not read"
        return self.cause(program, program.status())

    def cause(self, program: Child, status: int) -> Verdict:
        """The meaning of an exit status; bubblewrap gives 128 + the signal."""
        number = -status if status < 0 else status - 128
        if program.starved():
            return "memory", f"used more than {self.memory >> 20} MB"
        if number == signal.SIGXCPU:
            return "timeout", "used up its processor time"
        if number == signal.SIGSYS:
            return "forbidden", "made a system call that is not allowed"
        if number > 0:
            return "error", f"ended by signal {number}"
        return "error", f"left with exit code {status} before the tests were done"


def lines(text: str) -> list[str]:
    """The lines of an output; white space at their ends and empty lines at the end do not count."""
    return [line.rstrip() for line in text.rstrip().splitlines()]


def main() -> None:
    """Answers each line with `{"verdict", "reason"}` or, where the sandbox did not stand, `{"broken"}`."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    found = level()
    broker = Broker(found, int(sys.argv[1]), int(sys.argv[2]))
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        print(json.dumps({"level": [found.name, found.reason]}), file=answers, flush=True)
        for line in sys.stdin:
            try:
                word, reason = broker.examine(json.loads(line))
                answer = {"verdict": word, "reason": reason}
            except BrokenError as error:
                answer = {"broken": str(error)}
            broker.reap()
            print(json.dumps(answer), file=answers, flush=True)
    finally:
        broker.close()


if __name__ == "__main__":
    main()
