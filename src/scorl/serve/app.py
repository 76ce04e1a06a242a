"""The routes: chat completions, models, health; with limits on size, time and concurrency."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager, suppress
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from scorl.serve.bodies import Bodies
from scorl.serve.correcting import Corrected, Part, correct
from scorl.serve.hosts import HostCheck
from scorl.serve.protocol import ChatRequest, NoAnswerError, error_body, read_request
from scorl.serve.settings import ServeSettings
from scorl.serve.upstream import Upstream

__all__ = ["make_app"]

T = TypeVar("T")
Piece = tuple[Part, str]
GONE = Response(status_code=499)
"""To somebody who is gone."""


def make_app(settings: ServeSettings) -> Starlette:
    """The proxy as an ASGI application."""
    proxy = CorrectingProxy(settings)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await proxy.upstream.client.close()

    return Starlette(
        routes=[
            Route("/v1/chat/completions", proxy.complete, methods=["POST"]),
            Route("/v1/models", proxy.models),
            Route("/health", proxy.health),
        ],
        middleware=[Middleware(HostCheck, hosts=settings.hosts)],
        exception_handlers={NoAnswerError: _refuse, HTTPException: _refuse_route, Exception: _fail},
        lifespan=lifespan,
    )


class CorrectingProxy:
    """What stands between callers and the upstream."""

    def __init__(self, settings: ServeSettings) -> None:
        self.settings, self.upstream = settings, Upstream(settings)
        self.bodies, self.running = Bodies(settings), 0

    async def health(self, request: Request) -> Response:
        """That the proxy itself is up; the upstream is not asked."""
        return JSONResponse({"status": "ok"})

    async def models(self, request: Request) -> Response:
        """The models that may be asked for."""
        self._check_key(request)
        if (name := self.settings.model) is not None:
            listed = [{"id": name, "object": "model", "created": 0, "owned_by": "scorl"}]
        else:
            listed = await self.upstream.models()
        return JSONResponse({"object": "list", "data": listed})

    async def complete(self, request: Request) -> Response:
        """The corrected answer to a conversation."""
        self._check_key(request)
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise NoAnswerError(415, "the body has to be application/json")
        with ExitStack() as until_answered:
            try:
                body = await self.bodies.read(request, self._check_room)
                self._check_room()
                until_answered.enter_context(self._counted())
                asked = read_request(body)
                self._check_model(asked.model)
                answering = until_answered.enter_context(closing(Answering(self, asked)))
                if asked.stream:
                    first = await _unless_gone(request, answering.next())
                    end = answering.began + self.settings.timeout + self.settings.patience
                    return StreamedAnswer(answering.events(first), until_answered.pop_all(), end)
                return JSONResponse(_completion(asked, await _unless_gone(request, answering.result())))
            except ClientDisconnect:
                return GONE

    def _check_room(self) -> None:
        if self.running >= self.settings.max_concurrency:
            message = f"{self.running} requests are under way, as many as this proxy takes"
            raise NoAnswerError(429, message, kind="rate_limit_error", retry_after="1")

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1

    def _check_model(self, name: str) -> None:
        if self.settings.model not in (None, name):
            message = f"there is no model '{name}' here, but '{self.settings.model}'"
            raise NoAnswerError(404, message, param="model", code="model_not_found")

    def _check_key(self, request: Request) -> None:
        given = request.headers.get("authorization", "").removeprefix("Bearer ").encode()
        if self.settings.api_key is not None and not hmac.compare_digest(given, self.settings.api_key.encode()):
            raise NoAnswerError(401, "wrong or missing API key", kind="authentication_error", code="invalid_api_key")


class Answering:
    """One answer that is being written, in a task of its own, which ends with whoever waits for it."""

    def __init__(self, proxy: CorrectingProxy, asked: ChatRequest) -> None:
        self.proxy, self.asked, self.began = proxy, asked, asyncio.get_running_loop().time()
        self._pieces: asyncio.Queue[Piece | None] = asyncio.Queue()
        tell = (lambda part, piece: self._pieces.put_nowait((part, piece))) if asked.stream else None
        self._task = asyncio.create_task(self._answer(tell))
        self._task.add_done_callback(lambda task: self._pieces.put_nowait(None))

    async def _answer(self, tell: Callable[[Part, str], None] | None) -> Corrected:
        seconds = self.proxy.settings.timeout
        try:
            async with asyncio.timeout(seconds):
                return await correct(self.proxy.settings, self.proxy.upstream, self.asked, tell)
        except TimeoutError:
            raise NoAnswerError(504, f"no answer within {seconds:g} seconds", kind="timeout_error") from None

    async def result(self) -> Corrected:
        """The whole answer."""
        return await self._task

    async def next(self) -> Piece | None:
        """The next piece; None: there are no more.

        Raises:
            NoAnswerError: there is no answer, or no rest of it.
        """
        piece = await self._pieces.get()
        if piece is None:
            await self._task
        return piece

    async def events(self, piece: Piece | None) -> AsyncIterator[str]:
        """The answer from this piece on, as server-sent events."""
        head = _head("chat.completion.chunk", self.asked.model)
        try:
            yield _event(head, {"role": "assistant"})
            while piece is not None:
                yield _event(head, {piece[0]: piece[1]})
                piece = await self.next()
            corrected = await self._task
            yield _event(head, {}, finish=corrected.final.finish, scorl=corrected.as_dict())
            if self.asked.wants_usage:
                yield f"data: {json.dumps({**head, 'choices': [], 'usage': corrected.usage.as_dict()})}\n\n"
            yield "data: [DONE]\n\n"
        except NoAnswerError as refusal:  # behind the status line there is no other place for it
            yield _error_event(refusal)
        except Exception:
            logging.getLogger(__name__).exception("an answer broke off")
            yield _error_event(NoAnswerError(500, "the proxy failed", kind="server_error"))

    def close(self) -> None:
        """Stop what is still under way, also upstream."""
        self._task.cancel()


class StreamedAnswer(StreamingResponse):
    """Server-sent events, behind which something is closed however they end, by the loop's time `end` at the latest."""

    def __init__(self, events: AsyncIterator[str], behind: ExitStack, end: float) -> None:
        super().__init__(events, media_type="text/event-stream", headers=NO_CACHE)
        self.behind, self.end = behind, end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them; whoever reads too slowly is hung up on, since the server ends what ends without its last part."""
        with self.behind, suppress(ClientDisconnect, TimeoutError):
            async with asyncio.timeout_at(self.end):
                await super().__call__(scope, receive, send)


NO_CACHE = {"cache-control": "no-cache", "x-accel-buffering": "no"}


def _head(kind: str, model: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": model}


def _event(head: dict[str, Any], delta: dict[str, str], finish: str | None = None, **more: Any) -> str:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return f"data: {json.dumps({**head, 'choices': [choice], **more}, ensure_ascii=False)}\n\n"


def _error_event(refusal: NoAnswerError) -> str:
    return f"data: {json.dumps(error_body(refusal))}\n\n"


def _completion(asked: ChatRequest, corrected: Corrected) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": corrected.final.text}
    if corrected.reasoning:
        message["reasoning_content"] = corrected.reasoning
    return {
        **_head("chat.completion", asked.model),
        "choices": [{"index": 0, "message": message, "finish_reason": corrected.final.finish, "logprobs": None}],
        "usage": corrected.usage.as_dict(),
        "scorl": corrected.as_dict(),
    }


async def _unless_gone(request: Request, work: Awaitable[T]) -> T:
    """What some work comes to, unless the caller hangs up before.

    Raises:
        ClientDisconnect: the caller did; the work is cancelled.
    """
    task, gone = asyncio.ensure_future(work), asyncio.create_task(_wait_for_disconnect(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientDisconnect
    finally:
        task.cancel()
        gone.cancel()


async def _wait_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, NoAnswerError)
    headers = {"retry-after": error.retry_after} if error.retry_after else None
    return JSONResponse(error_body(error), error.status, headers)


async def _refuse_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return await _refuse(
        request, NoAnswerError(error.status_code, f"{request.method} {request.url.path}: {error.detail}")
    )


async def _fail(request: Request, error: Exception) -> Response:
    """Our own fault; the server logs the traceback."""
    return await _refuse(request, NoAnswerError(500, "the proxy failed", kind="server_error"))
