"""A crew: as many helper processes as this rank has cores, with a thread that waits for each."""

from __future__ import annotations

import atexit
import os
import queue
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from scorl.distributed.ranks import local_world_size

__all__ = ["Crew"]

Helper = TypeVar("Helper")
Task = TypeVar("Task")
Result = TypeVar("Result")


class Crew(Generic[Helper]):
    """Helpers, any idle one of which takes the next task; the last one used comes first, since it is warm.

    Args:
        hire: makes a helper.
        dismiss: ends one; all are ended when this process ends (a forked child leaves them alone).
        name: of the threads.
    """

    def __init__(self, hire: Callable[[], Helper], dismiss: Callable[[Helper], None], name: str) -> None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        size = max(1, cores // local_world_size())
        self.helpers = [hire() for _ in range(size)]
        self._dismiss, self._process = dismiss, os.getpid()
        self._idle: queue.LifoQueue[Helper] = queue.LifoQueue()
        for helper in self.helpers:
            self._idle.put(helper)
        self._threads = ThreadPoolExecutor(size, thread_name_prefix=name)
        atexit.register(self._close)

    def map(self, work: Callable[[Helper, Task], Result], tasks: Sequence[Task]) -> list[Result]:
        """The results of all tasks, in order."""

        def one(task: Task) -> Result:
            helper = self._idle.get()
            try:
                return work(helper, task)
            finally:
                self._idle.put(helper)

        return list(self._threads.map(one, tasks))

    def _close(self) -> None:
        if os.getpid() == self._process:
            self._threads.shutdown(cancel_futures=True)
            for helper in self.helpers:
                self._dismiss(helper)
