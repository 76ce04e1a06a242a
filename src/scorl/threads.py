"""Jobs on threads, some at once, that a user can interrupt."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

__all__ = ["run_jobs"]


def run_jobs(jobs: Iterable[Callable[[], object]], threads: int) -> None:
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

    workers = [threading.Thread(target=work, daemon=True) for _ in range(threads)]
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    except BaseException as error:  # an interrupt: whoever catches it must not find new jobs begun
        errors.append(error)
        raise
    if errors:
        raise errors[0]
