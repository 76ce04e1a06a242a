"""A small server that speaks OpenAI's protocol, with faults on demand: real HTTP, on a port of this machine."""

import asyncio
import json
import threading
import time
from collections import deque

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

__all__ = ["FakeEndpoint", "completion", "error"]


def completion(text, finish="stop", usage=True, **message):
    """A chat completion as JSON."""
    counted = {"usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}} if usage else {}
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text, **message}}
    return {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], **counted}


def error(status, message, headers=None, **more):
    """An error as OpenAI's API has it."""
    return JSONResponse({"error": {"message": message, "type": "some", **more}}, status, headers)


class FakeEndpoint:
    """Answers by `answer`, a function of a request's body; what is in `faults` is given first, one a request."""

    def __init__(self, answer=lambda body: f"answer to: {body['messages'][-1]['content']}"):
        self.answer = answer
        self.faults = deque()
        self.asked = []
        """(time, body) of each request, those that met a fault included."""
        self.keys = []
        self.delay = 0.0
        self.under_way = self.most = 0
        routes = [Route("/v1/chat/completions", self._complete, methods=["POST"]), Route("/v1/models", self._models)]
        routes.append(Route("/page", lambda request: HTMLResponse("<html>hello</html>"), methods=["GET", "POST"]))
        self._server = uvicorn.Server(
            uvicorn.Config(Starlette(routes=routes), port=0, log_level="error", lifespan="off")
        )
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def __enter__(self):
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/v1"
        return self

    def __exit__(self, *caught):
        self._server.should_exit = self._server.force_exit = True
        self._thread.join()

    @property
    def bodies(self):
        return [body for _, body in self.asked]

    async def _models(self, request: Request):
        return JSONResponse({"object": "list", "data": [{"id": "small-model", "object": "model"}]})

    async def _complete(self, request: Request):
        body = await request.json()
        self.asked.append((time.monotonic(), body))
        self.keys.append(request.headers.get("authorization"))
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(self.delay)
        self.under_way -= 1
        fault = self.faults.popleft() if self.faults else None
        if callable(fault) and not isinstance(fault, Response):
            fault = fault(body)
        if isinstance(fault, Response):
            return fault
        answer = fault or self.answer(body)
        answer = completion(answer) if isinstance(answer, str) else answer
        if body.get("stream"):
            return StreamingResponse(_pieces(answer), media_type="text/event-stream")
        return Response(json.dumps(answer), media_type="application/json")  # in ASCII: half a character goes through


def _pieces(answer):
    """A completion as server-sent events, a word each, the usage last."""
    (choice,) = answer["choices"]
    for word in (choice["message"]["content"] or "").split(" "):
        delta = {"index": 0, "delta": {"content": word + " "}, "finish_reason": None}
        yield _event({**answer, "object": "chat.completion.chunk", "choices": [delta], "usage": None})
    if choice["finish_reason"] is None:
        return  # it breaks off
    end = {"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}
    yield _event({**answer, "object": "chat.completion.chunk", "choices": [end], "usage": None})
    yield _event({**answer, "object": "chat.completion.chunk", "choices": []})
    yield "data: [DONE]\n\n"


def _event(chunk):
    return f"data: {json.dumps(chunk)}\n\n"
