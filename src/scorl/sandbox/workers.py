"""Worker processes that answer a line with a line and may be killed, and a pool of them.

Why not multiprocessing, concurrent.futures or pebble: they start workers by a fork, which is unsafe once torch has
threads, or by importing the user's script again, which breaks a script without a guard and loads torch into every
worker; and one worker that dies idle breaks their whole pool (docs/grading.md has the figures).
"""

from __future__ import annotations

import atexit
import contextlib
import os
import queue
import shlex
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

from scorl.sandbox import EndedError, LateError
from scorl.threads import LastingThreads, run_jobs

__all__ = ["LineWorker", "WorkerPool", "count_cores"]

STARTS = 3
"""How often a worker is started before it is given up: the first may have been killed for want of memory."""
END_SECONDS = 5.0
"""For a worker to end by itself when its input closes."""
EXIT_SECONDS = 1.0
"""Likewise for all workers of a process that ends: what waits for its input ends at once, what computes is killed."""

Job = TypeVar("Job")
Result = TypeVar("Result")


class LineWorker:
    """A process that says a line when it is ready, and then answers each line of its input with one.

    It is started when it is first asked, and again after it ended or was killed.

    Args:
        command: starts it.
        start_seconds: wall time for it to be ready.
        environment: all of it; None: this process's.
        quiet: whether what it says on stderr is dropped.
    """

    def __init__(
        self, command: Sequence[str], start_seconds: float, environment: Mapping[str, str] | None, quiet: bool
    ) -> None:
        self.command, self.start_seconds, self.environment, self.quiet = command, start_seconds, environment, quiet
        self.process: subprocess.Popen[str] | None = None
        self.over = False
        """Whether it starts no more."""
        self.greeting = ""
        """The line that it said when it was ready."""

    def ask(self, line: str, seconds: float) -> str:
        """The answer to a line. A worker that fails is ended, and the next line starts it again.

        Raises:
            LateError, EndedError: it did not answer within so many seconds of wall time, or ended.
            RuntimeError: it does not start.
        """
        process = self.ready()
        assert process.stdin is not None
        try:
            process.stdin.write(line + "\n")
            process.stdin.flush()
        except BrokenPipeError:
            self.close()
            raise EndedError from None
        return self.read(process, seconds)

    def ask_again(self, line: str, seconds: float) -> str:
        """The answer to a line, asked once more where the worker ends: the kernel or somebody else may have killed it.

        Raises:
            LateError, EndedError: it did not answer in time, or ended both times, which is the question's doing.
            RuntimeError: it does not start.
        """
        try:
            return self.ask(line, seconds)
        except EndedError:
            return self.ask(line, seconds)

    def ready(self) -> subprocess.Popen[str]:
        """The process, started where there is none or where it has died between two questions."""
        if self.process is not None and self.process.poll() is None:
            return self.process
        self.close()
        for _ in range(STARTS):
            if self.over:
                raise EndedError
            # A session of its own: Ctrl-C in the terminal reaches the parent alone, which ends its workers in order.
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL if self.quiet else None,
                text=True,
                start_new_session=True,
                env=self.environment,
            )
            with contextlib.suppress(LateError, EndedError):
                self.greeting = self.read(self.process, self.start_seconds)
                return self.process
        raise RuntimeError(f"a worker process does not start; try: {shlex.join(self.command)}")

    def read(self, process: subprocess.Popen[str], seconds: float) -> str:
        """The next line of the process, which is ended where none comes."""
        assert process.stdout is not None
        late = threading.Event()

        def expire() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(seconds, expire)
        timer.daemon = True  # no thread may hold up the end of a process that is interrupted
        timer.start()
        try:
            line = process.stdout.readline()
        finally:
            timer.cancel()
            timer.join()  # or it might kill the process after this answer, and the next question would find it dead
        if line and not late.is_set():
            return line
        self.close()
        raise LateError if late.is_set() else EndedError

    def close(self) -> None:
        """Ends the process by closing its input, or kills it; takes its exit status, so that no zombie stays."""
        if self.process is None:
            return
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        try:
            self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.process = None

    def leave(self) -> subprocess.Popen[str] | None:
        """Closes the process's input for good, while a thread may still wait for its answer; the process."""
        self.over, process = True, self.process
        if process is not None and process.stdin is not None:
            # Not by `close`, which waits for whoever writes.
            with contextlib.suppress(OSError, ValueError), open(os.devnull, "wb") as nothing:
                os.dup2(nothing.fileno(), process.stdin.fileno())
        return process


class WorkerPool:
    """Workers, any idle one of which takes the next job; all are closed when this process ends.

    Args:
        make: makes a worker.
        size: how many.
    """

    def __init__(self, make: Callable[[], LineWorker], size: int) -> None:
        self.workers = [make() for _ in range(size)]
        self._process = os.getpid()
        self._threads = LastingThreads()
        # Last in, first out: the worker used last is running and warm, so few jobs start few workers.
        self._idle: queue.LifoQueue[LineWorker] = queue.LifoQueue()
        for worker in self.workers:
            self._idle.put(worker)
        atexit.register(self._close)

    def map(self, work: Callable[[LineWorker, Job], Result], jobs: Sequence[Job]) -> list[Result]:
        """The results of all jobs, in order."""

        results: dict[int, Result] = {}

        def run(place: int) -> None:
            worker = self._idle.get()
            try:
                results[place] = work(worker, jobs[place])
            finally:
                self._idle.put(worker)

        every = [partial(run, place) for place in range(len(jobs))]
        run_jobs(every, min(len(jobs), len(self.workers)), self._threads.start)
        return [results[place] for place in range(len(jobs))]

    def pids(self) -> list[int]:
        """The process ids of the running workers."""
        return [worker.process.pid for worker in self.workers if worker.process is not None]

    def _close(self) -> None:
        if os.getpid() == self._process:  # a forked child has inherited the list, but the workers are its parent's
            processes = [process for worker in self.workers if (process := worker.leave())]
            end = time.monotonic() + EXIT_SECONDS
            for process in processes:
                try:
                    process.wait(max(0.0, end - time.monotonic()))
                except subprocess.TimeoutExpired:
                    process.kill()
            for process in processes:
                process.wait()


def count_cores(processes: int) -> int:
    """How many cores each of so many processes on this machine may use, one at least."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // processes)
