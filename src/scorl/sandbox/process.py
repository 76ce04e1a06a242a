"""A sandboxed interpreter as the broker sees it: started, spoken to with deadlines, ended with all it started."""

from __future__ import annotations

import contextlib
import marshal
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from functools import cache
from pathlib import Path

from scorl.parent import end_with_parent
from scorl.sandbox import EndedError, LateError
from scorl.sandbox.bubblewrap import Level, make_command, make_environment
from scorl.sandbox.cgroups import ControlGroup
from scorl.sandbox.seccomp import seccomp_filter
from scorl.sandbox.wire import WireError

__all__ = ["BrokenError", "OrphanedError", "SandboxedProcess", "child_pids"]

START_SECONDS = 60.0
"""For a sandbox to stand; some hundredths of a second on an idle machine."""
END_SECONDS = 1.0
PACKAGE = "scorl.sandbox"
REQUESTS = 0
"""The broker's standard input, which closes when whoever wants verdicts is gone, however that ended."""


class BrokenError(Exception):
    """The sandbox does not stand."""


class OrphanedError(Exception):
    """Nobody wants a verdict any more."""


class SandboxedProcess:
    """One interpreter in a sandbox, and the pipes to it."""

    def __init__(self, level: Level, modules: tuple[str, ...], group: ControlGroup | None, longest: int) -> None:
        self.group, self.longest, self.broker = group, longest, os.getpid()
        self.out_of_memory_before = group.count_out_of_memory() if group else 0
        self.folder = None if level.bubblewrap else tempfile.mkdtemp(prefix="scorl-program-")
        self.start_limit = time.monotonic() + START_SECONDS
        with seccomp_filter() as seccomp:
            self.process = subprocess.Popen(
                make_command(level, seccomp),
                env=make_environment(self.folder),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=seccomp,
                start_new_session=True,
                preexec_fn=self.prepare,  # safe since the broker has one thread
                cwd=self.folder or "/",
            )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.input, self.answers = self.process.stdin.fileno(), self.process.stdout.fileno()
        # A program that does not read, or writes half a frame, must not hold up the broker: all waits have deadlines.
        os.set_blocking(self.input, False)
        os.set_blocking(self.answers, False)
        try:
            self.send(bundle_modules(modules), self.start_limit)
            if self.receive(self.start_limit) != b"ready":
                raise WireError("another greeting")
        except (LateError, EndedError, WireError) as error:
            self.kill_init()
            said = self.process.stderr.read(1000).decode(errors="replace").strip()
            self.end()
            raise BrokenError(f"the sandbox does not stand ({type(error).__name__}): {said}") from None
        except OrphanedError:
            self.end()
            raise

    def prepare(self) -> None:
        """What the new process does between fork and exec, so that not even the start of the sandbox is uncounted."""
        end_with_parent(self.broker)
        if self.group is not None:
            self.group.join()

    def send(self, body: bytes, deadline: float) -> None:
        """Sends a frame.

        Raises:
            LateError, EndedError: it was not taken in time, or nobody is there.
        """
        data = memoryview(len(body).to_bytes(4, "big") + body)
        while data:
            wait_for_pipe(deadline, writable=self.input)
            try:
                data = data[os.write(self.input, data[: 1 << 16]) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                raise EndedError from None

    def receive(self, deadline: float) -> bytes:
        """The next frame.

        Raises:
            LateError, EndedError: there is none.
            WireError: it is too long to be one.
        """
        size = int.from_bytes(self.read(4, deadline), "big")
        if size > self.longest:
            raise WireError("too long")
        return self.read(size, deadline)

    def read(self, count: int, deadline: float) -> bytes:
        """So many bytes."""
        parts = []
        while count:
            wait_for_pipe(deadline, readable=self.answers)
            part = os.read(self.answers, min(count, 1 << 20))
            if not part:
                raise EndedError
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def read_output(self, most: int, deadline: float) -> bytes:
        """All that is written until the other side closes.

        Raises:
            LateError: it does not close in time.
            WireError: it is too much.
        """
        parts = b""
        with contextlib.suppress(EndedError):
            while len(parts) <= most:
                parts += self.read(1, deadline) + self.read_available()
            raise WireError("too much output")
        return parts

    def read_available(self) -> bytes:
        """What can be read without waiting."""
        try:
            return os.read(self.answers, 1 << 16)
        except BlockingIOError:
            return b""

    def wait_status(self) -> int:
        """The exit status of a process that has closed its side, if it comes soon; else 0."""
        try:
            return self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            return 0

    def ran_out_of_memory(self) -> bool:
        """Whether a process of the group was ended for want of memory."""
        return self.group is not None and self.group.count_out_of_memory() > self.out_of_memory_before

    def end(self) -> None:
        """Kills every process of the sandbox and waits until it is gone."""
        self.kill_init()
        if self.group is not None:
            kill_members(self.group)
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def kill_init(self) -> None:
        """Kills process 1 of the sandbox, with which its whole namespace ends, then what had started it."""
        # In this order: the outer process ends when process 1 has, so that waiting for it is waiting for all of them.
        children = child_pids(self.process.pid)
        for child in children:
            with contextlib.suppress(OSError):
                os.kill(child, signal.SIGKILL)
        if not children:
            with contextlib.suppress(OSError):
                os.killpg(self.process.pid, signal.SIGKILL)
        try:
            self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        with contextlib.suppress(OSError):
            os.killpg(self.process.pid, signal.SIGKILL)


def child_pids(pid: int) -> list[int]:
    """The children of a process of one thread; none where the kernel does not tell."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def kill_members(group: ControlGroup) -> None:
    """Kills what is left in a group, and takes the exit status of what became a child of ours by that."""
    # Again and again: a member may have forked between the reading of the list and its end.
    while members := group.member_pids():
        for member in members:
            with contextlib.suppress(OSError):
                os.kill(member, signal.SIGKILL)
        for member in members:
            with contextlib.suppress(OSError):
                os.waitpid(member, os.WNOHANG)
        time.sleep(0.001)


def wait_for_pipe(deadline: float, readable: int | None = None, writable: int | None = None) -> None:
    """Waits for a pipe.

    Raises:
        LateError: the deadline has passed.
        OrphanedError: whoever wants the verdict is gone.
    """
    poll = select.poll()
    poll.register(REQUESTS, 0)  # of no event but its end
    for pipe, event in ((readable, select.POLLIN), (writable, select.POLLOUT)):
        if pipe is not None:
            poll.register(pipe, event)
    ready = {pipe for pipe, _ in poll.poll(1000 * max(0.0, deadline - time.monotonic()))}
    if REQUESTS in ready:
        raise OrphanedError
    if not ready:
        raise LateError


@cache
def bundle_modules(modules: tuple[str, ...]) -> bytes:
    """Modules of this folder, compiled, as the interpreter in the sandbox takes them."""
    here = Path(__file__).parent
    compiled = []
    for name in modules:
        source = (here / f"{name}.py").read_text(encoding="utf-8")
        compiled.append((f"{PACKAGE}.{name}", compile(source, f"{name}.py", "exec", dont_inherit=True)))
    return marshal.dumps(compiled)
