"""Jobs on threads, some at once, that a user can interrupt."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from queue import SimpleQueue

__all__ = ["LastingThreads", "run_jobs"]

Start = Callable[[Callable[[], None]], threading.Event]
"""Begins some work on a thread; the event is set when it has ended."""


class LastingThreads:
    """Threads that stay when their work has ended, and take the next.

    A process that asks for a signal at its parent's end, as workers do, is sent it by Linux when the thread that
    started it ends.
    """

    def __init__(self) -> None:
        self._waiting: SimpleQueue[tuple[Callable[[], None], threading.Event]] = SimpleQueue()
        self._idle = threading.Semaphore(0)

    def start(self, work: Callable[[], None]) -> threading.Event:
        """Let an idle thread do the work, or a new one where none is idle."""
        if not self._idle.acquire(blocking=False):
            threading.Thread(target=self._serve, daemon=True).start()
        done = threading.Event()
        self._waiting.put((work, done))
        return done

    def _serve(self) -> None:
        while True:
            work, done = self._waiting.get()
            try:
                work()
            finally:
                self._idle.release()
                done.set()


def start_thread(work: Callable[[], None]) -> threading.Event:
    """Let a thread of its own do the work."""
    done = threading.Event()

    def run() -> None:
        try:
            work()
        finally:
            done.set()

    threading.Thread(target=run, daemon=True).start()
    return done


def run_jobs(jobs: Iterable[Callable[[], object]], threads: int, start: Start = start_thread) -> None:
    """Run all jobs, so many at once. Behind an error none begins; those under way end, and the first error is raised.

    An interrupt waits for none of them, which is why this is no `ThreadPoolExecutor`: Python joins its threads at exit,
    and an answer, or a program that is judged, may take minutes.
    """
    waiting, taking, errors = iter(jobs), threading.Lock(), list[BaseException]()

    def work() -> None:
        while True:
            with taking:
                job = None if errors else next(waiting, None)
            if job is None:
                return
            try:
                job()
            except Exception as error:
                errors.append(error)

    try:
        for done in [start(work) for _ in range(threads)]:
            done.wait()
    except BaseException as error:  # an interrupt: whoever catches it must not find new jobs begun
        errors.append(error)
        raise
    if errors:
        raise errors[0]
