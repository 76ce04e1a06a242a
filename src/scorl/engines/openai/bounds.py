"""How much a server may answer, and for how long: the client itself bounds the wait for the next byte alone."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

__all__ = ["EndlessAnswerError", "bound_answers", "bound_async_answers", "bound_time"]

MOST_BYTES = 64 << 20
"""Of one answer, unpacked. The longest that models write are a hundredth of it."""


class EndlessAnswerError(ValueError):
    """An answer that is longer, or takes longer, than any should."""


_clock = threading.local()
"""When the answer to this thread's request has to have ended."""


def bound_time(request: Any) -> None:
    """A hook of the client's HTTP library: a request's own timeout bounds it and all of its answer, heads included.

    What it raises behind that: `EndlessAnswerError`, or the library's own error of a timeout.
    """
    _clock.end = time.monotonic() + request.extensions["timeout"]["read"]
    request.extensions["trace"] = _watch_connection


def bound_answers(response: Any) -> None:
    """A hook of the client's HTTP library, which bounds each response before it is read.

    What reading it raises: `EndlessAnswerError`, behind `MOST_BYTES`.
    """
    # Whether whole, in lines or as events: the library reads all of a response by this method.
    response.iter_bytes = _count_bytes(response.iter_bytes)


def bound_async_answers() -> Callable[[Any], Awaitable[None]]:
    """The same for the asynchronous client, whose callers bound the time."""

    async def bound(response: Any) -> None:
        response.aiter_bytes = _count_async_bytes(response.aiter_bytes)

    return bound


def _watch_connection(event: str, info: dict[str, Any]) -> None:
    """What the library tells of its work: a new connection is bounded, by whatever request will have it."""
    if event.endswith((".connect_tcp.complete", ".start_tls.complete")):
        stream = info["return_value"]
        read, write = stream.read, stream.write
        stream.read = lambda max_bytes, timeout=None: read(max_bytes, _shorten(timeout))
        stream.write = lambda buffer, timeout=None: write(buffer, _shorten(timeout))


def _shorten(timeout: float | None) -> float:
    """The wait for the next byte, which ends with the request's time."""
    left: float = _clock.end - time.monotonic()
    if left <= 0:
        raise EndlessAnswerError("its answer has not ended in time")
    return left if timeout is None else min(timeout, left)


def _count_bytes(read: Callable[..., Iterator[bytes]]) -> Callable[..., Iterator[bytes]]:
    def read_bounded(*arguments: Any) -> Iterator[bytes]:
        left = MOST_BYTES
        for part in read(*arguments):
            left = _take(part, left)
            yield part

    return read_bounded


def _count_async_bytes(read: Callable[..., AsyncIterator[bytes]]) -> Callable[..., AsyncIterator[bytes]]:
    async def read_bounded(*arguments: Any) -> AsyncIterator[bytes]:
        left = MOST_BYTES
        async for part in read(*arguments):
            left = _take(part, left)
            yield part

    return read_bounded


def _take(part: bytes, left: int) -> int:
    if len(part) > left:
        raise EndlessAnswerError(f"its answer is longer than {MOST_BYTES >> 20} MiB")
    return left - len(part)
