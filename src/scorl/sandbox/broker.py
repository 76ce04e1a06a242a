"""The broker: a small process that starts programs and examiners, carries frames between them, and judges ends.

It is started by the process that wants verdicts (never forked from it), takes one examination a line on its
stdin, and answers with one line. It has a single thread, and neither parses nor runs anything of a program. When
its stdin closes it ends at once, with all that it has started: the process that wants verdicts is gone.
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

from scorl.sandbox import EndedError, Judgement, LateError
from scorl.sandbox.bubblewrap import Level, detect_level
from scorl.sandbox.cgroups import ControlGroup
from scorl.sandbox.process import BrokenError, OrphanedError, SandboxedProcess, child_pids
from scorl.sandbox.proxy import SENT
from scorl.sandbox.wire import LONGEST, WireError, decode, encode, refuse_handle

__all__ = ["Broker", "main"]

PROGRAM_MODULES = ("wire", "candidate")
EXAMINER_MODULES = ("wire", "candidate", "proxy", "examiner")
UNBOUNDED = 1 << 30
"""Bytes of what we send ourselves, in effect without bound."""
OUTPUT = 1 << 20
"""The most bytes that a program may print in a test of its output."""
GRACE = 2.0
"""Seconds for an examiner to say at which test a program ended."""
PR_SET_CHILD_SUBREAPER = 36
FIXED = {"NOFILE": 256, "CORE": 0, "FSIZE": 64 << 20}


@dataclass
class Conversation:
    """What the tests and a program say to each other."""

    program: SandboxedProcess
    deadline: float
    load: bytes
    """What loads the program; it takes the place of the first request."""
    ending: Judgement | None = None
    """What became of the program, once it has ended."""


class Broker:
    """One program at a time, by an examiner that is kept between them."""

    def __init__(self, level: Level, memory: int, processes: int) -> None:
        self.level, self.memory, self.processes = level, memory, processes
        self.group = ControlGroup(memory, processes) if level.groups else None
        self.examiner: SandboxedProcess | None = None

    def close(self) -> None:
        """Ends what runs, and what it left."""
        if self.examiner is not None:
            self.examiner.end()
            self.examiner = None
        self.reap()
        if self.group is not None:
            self.group.remove()

    def reap(self) -> None:
        """Kills whatever lost its parent and so became a child of ours, and takes its exit status."""
        examiner = self.examiner.process.pid if self.examiner else 0
        give_up = time.monotonic() + GRACE  # nothing else holds a program at the reduced level that forks without end
        while (orphans := set(child_pids(os.getpid())) - {examiner}) and time.monotonic() < give_up:
            for orphan in orphans:
                with contextlib.suppress(OSError):
                    os.kill(orphan, signal.SIGKILL)
                    os.waitpid(orphan, 0)
        # Where the kernel lists no children, take what has ended by itself. WNOWAIT looks without taking, since the
        # examiner's own status belongs to its Popen object, which would not notice.
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitid(os.P_ALL, 0, flags)) and ended.si_pid != examiner:
                os.waitpid(ended.si_pid, 0)

    def resource_limits(self, seconds: float) -> dict[str, int]:
        """Resource limits of each process of a program."""
        # NPROC counts all processes of the user, so it only means something in a user namespace of the program's own.
        limits = {**FIXED, "CPU": int(seconds) + 1, "AS": self.memory}
        return limits if self.level.bubblewrap is None else {**limits, "NPROC": self.processes}

    def examine(self, request: dict[str, Any]) -> Judgement:
        """What comes of a program: `program`, `seconds`, and `pairs` or `tests`, `setup`, `entry_point`, `stdin`.

        Raises:
            BrokenError: the sandbox does not stand; the program has not been started.
        """
        if "pairs" in request:
            return self.judge_output(request)
        examiner, seconds = self.ready_examiner(), float(request["seconds"])
        program = self.start_program(request["stdin"], None, seconds)
        # Wall time is twice the processor time and a second: a busy machine fails no program, one that sleeps fails.
        deadline = time.monotonic() + 2 * seconds + 1
        limits = {"CPU": 4 * int(seconds) + 10, "AS": 4 * self.memory}
        tests = encode((limits, request["setup"], request["tests"], request["entry_point"]), refuse_handle, UNBOUNDED)
        load = encode(("load", request["program"]), refuse_handle, UNBOUNDED)
        try:
            examiner.send(tests, deadline)
            return self.carry_frames(Conversation(program, deadline, load), examiner)
        finally:
            program.end()

    def start_program(self, stdin: str, script: str | None, seconds: float) -> SandboxedProcess:
        """A sandbox that stands and knows its limits, but no program yet, or only the script."""
        program = SandboxedProcess(self.level, PROGRAM_MODULES, self.group, 2 * LONGEST)
        try:
            program.send(
                encode((self.resource_limits(seconds), stdin, script), refuse_handle, UNBOUNDED), program.start_limit
            )
        except (LateError, EndedError) as error:
            program.end()
            raise BrokenError("the sandbox ended before the program began") from error
        except OrphanedError:
            program.end()
            raise
        return program

    def carry_frames(self, talk: Conversation, examiner: SandboxedProcess) -> Judgement:
        """Carries requests to the program and its answers back, until the examiner has judged.

        Frames of the examiner open with `c` (a request to carry), `v` (its verdict) or `e` (its copy has ended).
        """
        while True:
            try:
                frame = examiner.receive(talk.deadline)
                if frame[:1] == b"c":
                    examiner.send(self.ask_program(talk, frame[1:]), talk.deadline)
            except (LateError, EndedError, WireError) as error:
                examiner.end()
                self.examiner = None
                outcome = "timeout" if isinstance(error, LateError) else "error"
                return talk.ending or Judgement(outcome, "the tests did not come to an end")
            if frame[:1] == b"v":
                outcome, reason = decode(frame[1:], refuse_handle)
                # How the program ended outranks what the tests make of its silence; they only say where it happened.
                talk.ending = (
                    Judgement(talk.ending[0], reason + talk.ending[1]) if talk.ending else Judgement(outcome, reason)
                )
            elif frame[:1] == b"e":
                return talk.ending or Judgement(
                    "error", "the tests ended their interpreter, perhaps for want of memory"
                )

    def ask_program(self, talk: Conversation, request: bytes) -> bytes:
        """The program's answer to a request; nothing once it has ended."""
        if talk.ending is None:
            try:
                talk.program.send(talk.load or request, talk.deadline)
                talk.load, answer = b"", talk.program.receive(talk.deadline)
                if not answer:
                    raise WireError("an empty frame")
                return answer
            except (LateError, EndedError, WireError) as error:
                talk.ending = self.explain_silence(talk.program, error)
                talk.deadline = time.monotonic() + GRACE
        return b""

    def ready_examiner(self) -> SandboxedProcess:
        """The examiner, started where there is none."""
        if self.examiner is None or self.examiner.process.poll() is not None:
            self.examiner = SandboxedProcess(self.level, EXAMINER_MODULES, None, 2 * SENT)
        return self.examiner

    def judge_output(self, request: dict[str, Any]) -> Judgement:
        """What comes of a program by pairs of input and output, each of them a run of its own."""
        pairs, seconds = request["pairs"], float(request["seconds"])
        for number, (stdin, expected) in enumerate(pairs, 1):
            outcome, reason = self.run_script(request["program"], stdin, expected, seconds)
            if outcome != "passed":
                return Judgement(outcome, f"test {number} of {len(pairs)}: {reason}")
        return Judgement("passed", "")

    def run_script(self, script: str, stdin: str, expected: str, seconds: float) -> Judgement:
        """What comes of one run of a program as the main one."""
        program = self.start_program(stdin, script, seconds)
        try:
            printed = program.read_output(OUTPUT, time.monotonic() + 2 * seconds + 1)
            status = program.wait_status()
        except (LateError, EndedError, WireError) as error:
            return self.explain_silence(program, error)
        finally:
            program.end()
        if status:
            return self.explain_status(program, status)
        if strip_lines(printed.decode("utf-8", "replace")) == strip_lines(expected):
            return Judgement("passed", "")
        return Judgement("failed", f"printed {printed[:100]!r}")

    def explain_silence(self, program: SandboxedProcess, error: Exception) -> Judgement:
        """Why a program did not answer."""
        if isinstance(error, LateError):
            return Judgement("timeout", "not done in time")
        if isinstance(error, WireError):
            return Judgement("error", "what it wrote on our pipe does not read")
        return self.explain_status(program, program.wait_status())

    def explain_status(self, program: SandboxedProcess, status: int) -> Judgement:
        """The meaning of an exit status; bubblewrap gives 128 + the signal."""
        number = -status if status < 0 else status - 128
        if program.ran_out_of_memory():
            return Judgement("memory", f"used more than {self.memory >> 20} MB")
        if number == signal.SIGXCPU:
            return Judgement("timeout", "used up its processor time")
        if number == signal.SIGSYS:
            return Judgement("forbidden", "made a system call that is not allowed")
        if number > 0:
            return Judgement("error", f"ended by signal {number}")
        return Judgement("error", f"left with exit code {status} before the tests were done")


def strip_lines(text: str) -> list[str]:
    """The lines of an output; white space at their ends and empty lines at the end do not count."""
    return [line.rstrip() for line in text.rstrip().splitlines()]


def main() -> None:
    """Answers each line with `{"outcome", "reason"}` or, where the sandbox did not stand, `{"broken"}`."""
    # What a killed program leaves behind becomes our child instead of the machine's init's, so that we can reap it.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    level = detect_level()
    broker = Broker(level, int(sys.argv[1]), int(sys.argv[2]))
    # Only this descriptor reaches the parent. Whatever else prints goes to stderr from here on, and forges no answer.
    answers = os.dup(1)
    os.dup2(2, 1)
    try:
        write_line(answers, {"level": [level.name, level.reason]})
        for line in sys.stdin:
            write_line(answers, answer_request(broker, line))
    except (OrphanedError, BrokenPipeError):
        pass  # nobody reads what we could say
    finally:
        broker.close()


def answer_request(broker: Broker, line: str) -> dict[str, str]:
    """The answer to a line."""
    try:
        return broker.examine(json.loads(line))._asdict()
    except BrokenError as error:
        return {"broken": str(error)}
    finally:
        broker.reap()


def write_line(pipe: int, answer: dict[str, Any]) -> None:
    """Writes an answer as a line, past all buffers: a full one would be written once more when the process ends."""
    line = memoryview(json.dumps(answer).encode() + b"\n")
    while line:
        line = line[os.write(pipe, line) :]


if __name__ == "__main__":
    main()
