"""The bodies of requests that are still on their way: their size, their time, and how many there may be."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.requests import Request

from scorl.serve.protocol import NoAnswerError
from scorl.serve.settings import ServeSettings

__all__ = ["Bodies"]

BODIES_A_PLACE = 4
"""Bodies that are awaited at once, for each request that may be under way."""


class Bodies:
    """Reads bodies. Where too many are awaited, the one that was awaited longest is given up, so that nobody who sends
    slowly keeps others out."""

    def __init__(self, settings: ServeSettings) -> None:
        self.longest, self.patience = settings.max_body, settings.patience
        self.most = BODIES_A_PLACE * settings.max_concurrency
        self._waits: list[asyncio.Timeout] = []

    async def read(self, request: Request, check: Callable[[], None]) -> bytes:
        """A body, of which no more is read than is allowed; `check` is called before each part of it.

        Raises:
            NoAnswerError: it is too long, or did not come in time, or made room for others.
        """
        check()
        self._check_length(int(request.headers.get("content-length", 0)))
        body, wait = bytearray(), asyncio.timeout(self.patience)
        try:
            async with wait:
                self._begin(wait)
                async for part in request.stream():
                    check()
                    body += part
                    self._check_length(len(body))
        except TimeoutError:
            if wait not in self._waits:
                message = f"{self.most} bodies are on their way, and this one had been awaited longest"
                raise NoAnswerError(429, message, kind="rate_limit_error", retry_after="1") from None
            raise NoAnswerError(408, "the body did not come in time", kind="timeout_error") from None
        finally:
            if wait in self._waits:
                self._waits.remove(wait)
        return bytes(body)

    def _begin(self, wait: asyncio.Timeout) -> None:
        self._waits.append(wait)
        if len(self._waits) > self.most:
            oldest = next(wait for wait in self._waits if not wait.expired())
            self._waits.remove(oldest)
            oldest.reschedule(0)

    def _check_length(self, length: int) -> None:
        if length > self.longest:
            raise NoAnswerError(413, f"the body is longer than the {self.longest} bytes that this proxy takes")
