"""Callers who neither send nor read: the connection is closed, where uvicorn would wait without end."""

from __future__ import annotations

import asyncio
import math
import resource
from contextlib import suppress
from typing import ClassVar, Literal

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["PatientProtocol", "allow_connections"]

CONNECTIONS, CONNECTIONS_A_PLACE = 1024, 32
"""Open connections: at least, and for each request that may be under way."""
ARRIVAL = 1.0
"""Seconds in which what somebody sent is read; until then nobody knows whether they wait or are waited for."""

Wait = Literal["a request's head", "the rest of its body", "somebody to read"]


class PatientProtocol(H11Protocol):
    """HTTP/1.1 with an end to what is waited for; the app itself bounds the wait for a body until it has answered.

    Of more connections than uvicorn's `limit_concurrency` those go that have been waited for longest: who holds many
    open keeps nobody else out, as uvicorn's own 503 to everybody would. A burst that comes at once gets that 503.
    """

    patience: ClassVar[float] = 30.0
    """Seconds for a request's head, for the rest of a body behind its answer, and between two reads of an answer that
    does not fit into the buffers."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Somebody is there, and should say what is wanted."""
        self._waits: dict[Wait, asyncio.TimerHandle] = {}
        super().connection_made(transport)
        self._wait("a request's head")
        self._make_room()

    def data_received(self, data: bytes) -> None:
        """Part of a request; between two of them uvicorn's own limit counts, until the next one begins."""
        super().data_received(data)
        if self.conn.their_state is h11.IDLE:
            self._wait("a request's head")
        else:
            self._end("a request's head")
        self._wait_for_rest()

    def on_response_complete(self) -> None:
        """An answer is out, perhaps before all of its request came."""
        super().on_response_complete()
        self._wait_for_rest()

    def timeout_keep_alive_handler(self) -> None:
        """No further request came."""
        super().timeout_keep_alive_handler()
        self._wait_for_rest()

    def pause_writing(self) -> None:
        """The buffers are full."""
        super().pause_writing()
        self._wait("somebody to read")

    def resume_writing(self) -> None:
        """There is room again; where the connection ends, all of the rest has to be read in time."""
        super().resume_writing()
        if not self.transport.is_closing():
            self._end("somebody to read")

    def connection_lost(self, exc: Exception | None) -> None:
        """They are gone."""
        for wait in list(self._waits):
            self._end(wait)
        super().connection_lost(exc)

    def _make_room(self) -> None:
        if self.limit_concurrency is None or len(self.connections) < self.limit_concurrency:
            return
        others = (other for other in self.connections if isinstance(other, PatientProtocol) and other is not self)
        awaited = sorted((other._awaited_since(), id(other), other) for other in others)
        for since, _, other in awaited[: len(self.connections) - self.limit_concurrency + 1]:
            if since < self.loop.time() - ARRIVAL:
                self.connections.discard(other)  # it is lost a moment later
                other.transport.abort()

    def _awaited_since(self) -> float:
        """When the wait for it began, by the loop's clock; infinite while what it wants is being done."""
        begun = [timer.when() - self.patience for timer in self._waits.values()]
        if (idle := self.timeout_keep_alive_task) is not None:
            begun.append(idle.when() - self.timeout_keep_alive)
        return min(begun, default=math.inf)

    def _wait_for_rest(self) -> None:
        if self.transport.is_closing():  # it stays open until what is in the buffers is read
            self._wait("somebody to read")
        elif self.conn.our_state is h11.DONE and self.conn.their_state is h11.SEND_BODY:
            # Nobody reads it any more, and its first byte ends uvicorn's own limit.
            self._wait("the rest of its body")
        else:
            self._end("the rest of its body")

    def _wait(self, wait: Wait) -> None:
        if wait not in self._waits:  # a byte now and then does not begin it anew
            self._waits[wait] = self.loop.call_later(self.patience, self.transport.abort)

    def _end(self, wait: Wait) -> None:
        if wait in self._waits:
            self._waits.pop(wait).cancel()


def allow_connections(places: int) -> int:
    """How many connections may be open beside so many requests; the process may open as many files, and others."""
    connections = max(CONNECTIONS, CONNECTIONS_A_PLACE * places)
    wanted = 2 * connections  # many systems begin at 1,024, where nobody could connect before room is made
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft not in (resource.RLIM_INFINITY, hard) and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with suppress(ValueError, OSError):  # macOS has another limit behind it
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return connections
