"""How much a server may answer, and for how long: the client itself bounds the wait for the next byte alone."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

__all__ = ["EndlessAnswerError", "bound_answers", "bound_async_answers"]

MOST_BYTES = 64 << 20
"""Of one answer, unpacked. The longest that models write are a hundredth of it."""


class EndlessAnswerError(ValueError):
    """An answer that is longer, or takes longer, than any should."""


def bound_answers(seconds: float) -> Callable[[Any], None]:
    """A hook of the client's HTTP library, which bounds each response before it is read.

    What reading it raises: `EndlessAnswerError`, behind `seconds` or `MOST_BYTES`.
    """

    def bound(response: Any) -> None:
        # Whether whole, in lines or as events: the library reads all of a response by this method.
        response.iter_bytes = _count_bytes(response.iter_bytes, time.monotonic() + seconds)

    return bound


def bound_async_answers() -> Callable[[Any], Awaitable[None]]:
    """The same for the asynchronous client, whose callers bound the time."""

    async def bound(response: Any) -> None:
        response.aiter_bytes = _count_async_bytes(response.aiter_bytes)

    return bound


def _count_bytes(read: Callable[..., Iterator[bytes]], end: float) -> Callable[..., Iterator[bytes]]:
    def read_bounded(*arguments: Any) -> Iterator[bytes]:
        left = MOST_BYTES
        for part in read(*arguments):
            left = _take(part, left)
            if time.monotonic() > end:
                raise EndlessAnswerError("its answer has not ended in time")
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
