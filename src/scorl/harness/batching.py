"""Many callers that wait one by one, answered together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import anyio
from inspect_ai._util.error import PrerequisiteError  # what inspect shows without a traceback

from scorl.errors import UserError

__all__ = ["SharedCalls", "report"]

Job = TypeVar("Job")
Result = TypeVar("Result")

GATHER_SECONDS = 0.02
"""How long the first caller of a batch waits for others to join it."""


def report(error: UserError) -> PrerequisiteError:
    """A user's mistake as inspect tells it."""
    return PrerequisiteError(str(error))


class _Waiting(Generic[Job, Result]):
    """A caller's job, and its result once it is there."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.results: list[Result] = []


class SharedCalls(Generic[Job, Result]):
    """Jobs that wait at the same time are done by one call, in a thread; one call at a time.

    Whoever finds nobody at work does the jobs of all that wait; the others find their results.

    Args:
        work: does many jobs, their results in order.
    """

    def __init__(self, work: Callable[[list[Job]], list[Result]]) -> None:
        self._work = work
        self._lock = anyio.Lock()
        self._waiting: list[_Waiting[Job, Result]] = []

    async def __call__(self, job: Job) -> Result:
        """The result of one job.

        Raises:
            PrerequisiteError: the work ended with a user's mistake.
        """
        mine: _Waiting[Job, Result] = _Waiting(job)
        self._waiting.append(mine)
        try:
            async with self._lock:
                if not mine.results:
                    await anyio.sleep(GATHER_SECONDS)
                    await self._do_all([each for each in self._waiting if not each.results])
        finally:
            self._waiting.remove(mine)
        return mine.results[0]

    async def _do_all(self, batch: list[_Waiting[Job, Result]]) -> None:
        try:
            results = await anyio.to_thread.run_sync(self._work, [each.job for each in batch])
        except UserError as error:
            raise report(error) from None
        for each, result in zip(batch, results, strict=True):
            each.results.append(result)
