"""`scorl serve`: the official client on one side, an upstream that does as it is told on the other."""

import asyncio
import gzip
import http.client
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager, suppress

import pytest

openai = pytest.importorskip("openai")
uvicorn = pytest.importorskip("uvicorn")
starlette = pytest.importorskip("starlette.applications")

from starlette.responses import JSONResponse, Response, StreamingResponse  # noqa: E402
from starlette.routing import Route  # noqa: E402

from scorl.serve.app import Answering, make_app  # noqa: E402
from scorl.serve.patience import PatientProtocol, allow_connections  # noqa: E402
from scorl.serve.settings import ServeSettings  # noqa: E402
from scorl.tasks.turns import Correction, Turn, Verification  # noqa: E402

AGAIN = "There might be an error in the answer above."
FIRST, SECOND = "6*6 is 35. é€", "6*6 is 36. é€"


class FakeUpstream:
    """Answers by what it is asked, and takes down what it was asked."""

    def __init__(self):
        self.asked, self.keys, self.cancelled, self.status, self.delay = [], [], 0, 200, 0.0
        self.answer = lambda body: FIRST if self.users(body) == 1 else SECOND
        self.error, self.headers, self.breaks = {"error": {"message": "no such thing"}}, {}, False
        self.under_way = self.most = 0
        routes = [Route("/v1/chat/completions", self.complete, methods=["POST"]), Route("/v1/models", self.models)]
        self.app = starlette.Starlette(routes=routes)

    @staticmethod
    def users(body):
        return sum(message["role"] == "user" for message in body["messages"])

    async def models(self, request):
        if self.delay:
            return StreamingResponse(self.drip(), media_type="application/json")
        return JSONResponse(
            {"object": "list", "data": [{"id": "m", "object": "model", "created": 1, "owned_by": "me"}]}
        )

    async def complete(self, request):
        body = await request.json()
        self.asked.append(body)
        self.keys.append(request.headers.get("authorization"))
        if self.status != 200:
            return JSONResponse(self.error, self.status, self.headers)
        if not body.get("stream"):
            self.under_way += 1
            self.most = max(self.most, self.under_way)
            await self.wait(request)
            self.under_way -= 1
            message = {"role": "assistant", "content": self.answer(body)}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            return JSONResponse(
                {"id": "1", "object": "chat.completion", "choices": [choice], "usage": self.usage(body)}
            )
        return StreamingResponse(self.events(request, body), media_type="text/event-stream")

    async def drip(self):
        for _ in range(int(self.delay / 0.02)):
            yield b" "
            await asyncio.sleep(0.02)

    def usage(self, body):
        prompt = 10 * self.users(body)
        return {"prompt_tokens": prompt, "completion_tokens": 5, "total_tokens": prompt + 5}

    async def wait(self, request):
        try:
            for _ in range(int(self.delay / 0.02)):
                if await request.is_disconnected():
                    raise asyncio.CancelledError
                await asyncio.sleep(0.02)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    async def events(self, request, body):
        head = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": body["model"]}
        for letter in self.answer(body):
            choice = {"index": 0, "delta": {"content": letter}, "finish_reason": None}
            yield f"data: {json.dumps({**head, 'choices': [choice]})}\n\n"
            await self.wait(request)
            if self.breaks and letter == "5":
                yield f"data: {json.dumps({'error': {'message': 'the GPU fell off'}})}\n\n"
                return
        end = {"index": 0, "delta": {}, "finish_reason": "length"}
        yield f"data: {json.dumps({**head, 'choices': [end]})}\n\n"
        yield f"data: {json.dumps({**head, 'choices': [], 'usage': self.usage(body)})}\n\n"
        yield "data: [DONE]\n\n"


@contextmanager
def running(app, http=PatientProtocol, **config):
    """An application behind a port of this machine."""
    config |= {"log_level": "error", "timeout_graceful_shutdown": 1}
    server = uvicorn.Server(uvicorn.Config(app, port=0, http=http, **config))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def upstream():
    return FakeUpstream()


@pytest.fixture
def serving(upstream):
    """Runs a proxy with such settings in front of the upstream; gives the official client of it."""

    @contextmanager
    def serve(turns=None, limit_concurrency=None, **settings):
        turns = Correction()(AGAIN, 2) if turns is None else turns
        with running(upstream.app) as behind:
            told = ServeSettings(f"http://127.0.0.1:{behind}/v1", turns, **settings)
            with running(make_app(told), limit_concurrency=limit_concurrency) as port:
                yield openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="key", max_retries=0)

    return serve


def ask(client, text="6 * 6?", **fields):
    return client.chat.completions.create(model="m", messages=[{"role": "user", "content": text}], **fields)


def port_of(client):
    return client.base_url.port


def post(client, body, headers=(), path="/v1/chat/completions"):
    """A request by hand: its status, headers and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port_of(client), timeout=20)
    connection.request("POST", path, body, {"content-type": "application/json", **dict(headers)})
    response = connection.getresponse()
    return response.status, dict(response.getheaders()), json.loads(response.read())


HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def send_head(client, length=10):
    """A request without its body."""
    slow = socket.create_connection(("127.0.0.1", port_of(client)), timeout=20)
    slow.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % length)
    return slow


def eventually(condition):
    for _ in range(300):
        if condition():
            return True
        time.sleep(0.02)
    return False


# Answers


def test_the_last_attempt_is_the_answer_and_the_first_stands_in_a_field(serving, upstream):
    with serving() as client:
        said = ask(client, temperature=0.3, max_tokens=20, seed=4, stop=["x"], extra_body={"top_k": 5})
    assert said.choices[0].message.content == SECOND
    assert said.choices[0].message.reasoning_content == FIRST
    assert said.choices[0].finish_reason == "stop"
    assert [(a["role"], a["content"]) for a in said.scorl["attempts"]] == [("attempt", FIRST), ("attempt", SECOND)]
    assert (said.usage.prompt_tokens, said.usage.completion_tokens, said.usage.total_tokens) == (30, 10, 40)
    first, second = upstream.asked
    assert second["messages"] == [
        *first["messages"],
        {"role": "assistant", "content": FIRST},
        {"role": "user", "content": AGAIN},
    ]
    for asked in upstream.asked:
        passed = {"model": "m", "temperature": 0.3, "max_tokens": 20, "seed": 4, "stop": ["x"], "top_k": 5}
        assert passed.items() <= asked.items()


def test_a_stream_shows_the_first_attempt_as_reasoning_and_the_last_as_content(serving, upstream):
    with serving() as client:
        chunks = list(ask(client, stream=True, stream_options={"include_usage": True}))
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert "".join(getattr(d, "reasoning_content", None) or "" for d in deltas) == FIRST
    assert "".join(d.content or "" for d in deltas) == SECOND
    assert len(deltas) > len(FIRST) + len(SECOND)
    assert chunks[-2].choices[0].finish_reason == "length"
    assert [a["content"] for a in chunks[-2].scorl["attempts"]] == [FIRST, SECOND]
    assert chunks[-1].usage.total_tokens == 40


def test_the_first_attempt_streams_while_it_is_written(serving, upstream):
    upstream.delay = 0.1
    with serving() as client:
        stream = iter(ask(client, stream=True))
        next(stream)
        assert next(stream).choices[0].delta.reasoning_content == "6"
        assert len(upstream.asked) == 1
        stream.close()


def test_samples_vote(serving, upstream):
    answers = iter(["so 1", "so 2", "so 3", "so 4", "so 8", "so 7", "so 7", ""])
    upstream.answer = lambda body: next(answers)
    with serving(samples=4) as client:
        said = ask(client, temperature=0.7, seed=10)
        assert said.choices[0].message.content == "so 7"
        assert said.scorl["votes"] == [{"answer": "7", "samples": 2}, {"answer": "8", "samples": 1}]
        assert said.usage.completion_tokens == 8 * 5
        assert {asked["seed"] for asked in upstream.asked} == {10, 11, 12, 13}
        with pytest.raises(openai.BadRequestError, match="nothing to vote on"):
            ask(client, temperature=0)
        answers = iter(["so 1", "so 2"] * 4)
        upstream.answer = lambda body: "so 1" if upstream.users(body) == 1 else "so 2"
        chunks = list(ask(client, stream=True))
    assert [d for c in chunks if (d := c.choices[0].delta.content)] == ["so 2"]


def test_a_verification_that_says_right_ends_the_conversation(serving, upstream):
    upstream.answer = lambda body: "Verdict: right" if upstream.users(body) == 2 else "36"
    with serving(Verification()(AGAIN, 3)) as client:
        said = ask(client)
        assert said.choices[0].message.content == "36"
        assert [a["role"] for a in said.scorl["attempts"]] == ["attempt", "verification"]
        chunks = list(ask(client, stream=True))
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == "36"


def test_one_attempt_and_a_placebo(serving, upstream):
    with serving(()) as client:
        assert ask(client).choices[0].message.content == FIRST
        assert "reasoning_content" not in ask(client).choices[0].message.model_dump()
    with serving((Turn(None),)) as client:
        ask(client, "what?")
    assert upstream.asked[-1]["messages"][-1] == {"role": "user", "content": "what?"}


def test_content_in_parts_and_a_system_message(serving, upstream):
    parts = [{"type": "text", "text": "6 * "}, {"type": "text", "text": "6?"}]
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": parts}]
    with serving() as client:
        client.chat.completions.create(model="m", messages=messages)
    assert upstream.asked[0]["messages"] == [messages[0], {"role": "user", "content": "6 * 6?"}]


def test_a_returned_message_is_sent_back_as_it_is(serving, upstream):
    with serving() as client:
        said = ask(client).choices[0].message
        assert said.reasoning_content == FIRST
        nulls = {**said.model_dump(), "tool_calls": [], "annotations": [], "audio": None, "refusal": None}
        for back in (said, nulls):
            upstream.asked.clear()
            messages = [{"role": "user", "content": "6 * 6?", "name": None}, back, {"role": "user", "content": "Sure?"}]
            client.chat.completions.create(model="m", messages=messages)
            assert upstream.asked[0]["messages"] == [
                {"role": "user", "content": "6 * 6?"},
                {"role": "assistant", "content": SECOND},
                {"role": "user", "content": "Sure?"},
            ]


def test_models_and_health(serving, upstream):
    with serving() as client:
        assert [model.id for model in client.models.list()] == ["m"]
        connection = http.client.HTTPConnection("127.0.0.1", port_of(client))
        connection.request("GET", "/health")
        assert json.loads(connection.getresponse().read()) == {"status": "ok"}
    with serving(model="mine") as client:
        assert [model.id for model in client.models.list()] == ["mine"]
        with pytest.raises(openai.NotFoundError, match="no model 'm' here"):
            ask(client)


def test_usage_is_left_out_where_the_upstream_counts_nothing(serving, upstream):
    upstream.usage = lambda body: None
    with serving() as client:
        assert ask(client).usage is None


# Refusals


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools: this proxy asks for text twice"),
        ({"n": 2}, "n: this proxy returns one choice"),
        ({"n": True}, "n: this proxy returns one choice"),
        ({"logprobs": True}, "logprobs: "),
        ({"temperature": 3}, "temperature: "),
        ({"temperature": "warm"}, "temperature: "),
        ({"max_tokens": 0}, "max_tokens: "),
        ({"top_n": 3}, "top_n: unknown here"),
        ({"messages": []}, "messages: "),
        ({"messages": [{"role": "tool", "content": "x"}]}, "role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "content"),
        ({"messages": [{"role": "user", "content": "x", "reasoning_content": "y"}]}, "unknown here"),
        ({"messages": [{"role": "assistant", "content": None}]}, "content"),
        ({"messages": [{"role": "assistant", "content": "x", "tool_calls": [{"id": "1"}]}]}, "unknown here"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "the last one has to be the user's"),
    ],
)
def test_wrong_fields_get_a_sentence_in_openai_s_shape(serving, upstream, fields, said):
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], **fields}
    with serving() as client:
        status, _, answer = post(client, json.dumps(body))
        assert status == 400
        assert said in answer["error"]["message"]
        assert answer["error"]["type"] == "invalid_request_error"
        assert answer["error"]["param"].startswith(next(iter(fields)))
    assert upstream.asked == []


def test_fields_that_ask_for_nothing_are_taken(serving, upstream):
    nothing = {"tools": [], "n": 1, "logprobs": False, "store": False, "metadata": {"a": "b"}, "temperature": None}
    nothing |= {"logit_bias": None, "prediction": None}
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], **nothing}
    with serving() as client:
        assert post(client, json.dumps(body))[0] == 200
    assert set(upstream.asked[0]) == {"model", "messages"}


NO_NUMBER = b'{"model": "m", "messages": [{"role": "user", "content": "x"}], "chat_template_kwargs": {"a": NaN}}'


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff", b"", b'{"model": "m"}', b"[" * 100_000, NO_NUMBER])
def test_what_is_no_request(serving, body):
    with serving() as client:
        status, _, answer = post(client, body)
    assert status == 400
    assert answer["error"]["message"]


CHAT = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x"}]}).encode()
HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"


def raw(body, headers=b""):
    return HEAD + b"Connection: close\r\n" + headers + b"Content-Length: %d\r\n\r\n" % len(body) + body


def with_field(field):
    return raw(CHAT[:-1] + b"," + field + b"}")


@pytest.mark.parametrize(
    ("sent", "statuses"),
    [
        (b"GET /health HTTP/1.0\r\n\r\n", [400]),  # without a Host
        (b"GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n", [200]),
        (raw(b"%x\r\n%b\r\n0\r\n\r\n" % (len(CHAT), CHAT), b"Transfer-Encoding: chunked\r\n"), [200]),
        (raw(CHAT, b"Content-Length: 3\r\n"), [400]),
        (raw(CHAT, b"Host: localhost\r\n"), [400]),
        (HEALTH + b"X: " + b"a" * 200_000 + b"\r\n\r\n", [400]),
        (b"GET /health HTTP/1.1\r\nHost: [\r\nConnection: close\r\n\r\n", [400]),
        (2 * (HEALTH + b"\r\n") + HEALTH + b"Connection: close\r\n\r\n", [200] * 3),
        (raw(CHAT, b"Expect: 100-continue\r\n"), [100, 200]),
        (HEALTH + b"Upgrade: websocket\r\nConnection: Upgrade, close\r\n\r\n", [200]),
        (with_field(b'"model":"n"'), [200]),
        (with_field(b'"response_format":' + b'{"a":' * 900 + b"1" + b"}" * 900), [400]),
        (with_field(b'"temperature":1e999'), [400]),
        (with_field(b'"seed":' + b"9" * 4300), [200]),
        (with_field(b'"seed":' + b"9" * 4301), [400]),
        (with_field(b'"user":"\\ud800"'), [400]),
    ],
)
def test_raw_requests_get_a_status_and_the_next_one_its_answer(serving, upstream, sent, statuses):
    with serving(()) as client:
        with socket.create_connection(("127.0.0.1", port_of(client)), timeout=20) as connection:
            answer = bytearray()
            with suppress(ConnectionError):  # of what was too long it leaves a part unread
                connection.sendall(sent)
                while part := connection.recv(1 << 16):
                    answer += part
        assert list(map(int, re.findall(rb"HTTP/1\.1 (\d{3}) ", answer))) == statuses
        assert [asked["model"] for asked in upstream.asked] in ([], ["n" if b'"n"' in sent else "m"])  # the last counts
        assert ask(client).choices[0].message.content == FIRST


def test_routes_that_are_none(serving):
    with serving() as client:
        assert post(client, b"{}", path="/v1/embeddings")[0] == 404
        assert post(client, b"{}", path="/v1/models")[0] == 405
        assert post(client, b"{}", {"content-type": "text/plain"})[0] == 415  # what a page in a browser may send


def test_other_names_of_this_machine_are_refused(serving):
    with serving() as client:
        connection = http.client.HTTPConnection("127.0.0.1", port_of(client))
        connection.request("GET", "/health", headers={"host": "evil.example"})
        refused = connection.getresponse()
        assert refused.status == 400
        assert json.loads(refused.read())["error"]["type"] == "invalid_request_error"
        for name in ("[::1]:80", "LOCALHOST", "127.0.0.1:1"):
            connection.request("GET", "/health", headers={"host": name})
            assert connection.getresponse().read() == b'{"status":"ok"}'


# Limits


def test_a_long_body_is_refused_before_it_is_read(serving, upstream):
    with serving(max_body=1000) as client:
        status, _, answer = post(client, b'{"model": "' + b"m" * 1000)
        assert status == 413
        assert "1000 bytes" in answer["error"]["message"]
        with socket.create_connection(("127.0.0.1", port_of(client)), timeout=20) as endless:
            endless.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
            endless.sendall(b"800\r\n" + b"x" * 0x800 + b"\r\n")
            assert endless.recv(100).startswith(b"HTTP/1.1 413")
        with send_head(client, 1001) as declared:
            assert declared.recv(100).startswith(b"HTTP/1.1 413")


def test_bodies_that_do_not_come_keep_nobody_out(serving, upstream):
    with serving((), max_concurrency=1) as client, ExitStack() as sockets:
        slow = [sockets.enter_context(send_head(client)) for _ in range(6)]
        for early in slow[:2]:  # beyond the four that are awaited the first ones make room
            assert early.recv(100).startswith(b"HTTP/1.1 429")
        assert ask(client).choices
        upstream.delay = 1.0
        thread = threading.Thread(target=ask, args=[client])
        thread.start()
        assert eventually(lambda: len(upstream.asked) == 2)
        slow[-1].sendall(b"{")  # no more of it is held while there is no place
        assert slow[-1].recv(100).startswith(b"HTTP/1.1 429")
        with send_head(client) as late:
            assert late.recv(100).startswith(b"HTTP/1.1 429")
        upstream.delay = 0.0
        thread.join()


def test_idle_connections_keep_nobody_out(serving):
    with serving((), limit_concurrency=8) as client, ExitStack() as sockets:
        address = ("127.0.0.1", port_of(client))
        idle = [sockets.enter_context(socket.create_connection(address, timeout=20)) for _ in range(20)]
        time.sleep(1.1)
        for number in range(3):
            assert ask(client, str(number)).choices
        assert idle[0].recv(100) == b""
        idle[-1].setblocking(False)
        with pytest.raises(BlockingIOError):  # the youngest are still there
            idle[-1].recv(100)


def test_a_burst_of_connections_is_answered_to_the_last(serving, upstream):
    upstream.delay = 0.1
    sent = {"json": ASKED, "timeout": 20}

    async def burst(port):
        async with openai.DefaultAsyncHttpxClient() as caller:
            address = f"http://127.0.0.1:{port}/v1/chat/completions"
            asked = (caller.post(address, **sent) for _ in range(60))
            return {answer.status_code for answer in await asyncio.gather(*asked)}

    with serving((), limit_concurrency=32, max_concurrency=1) as client:
        assert asyncio.run(burst(port_of(client))) <= {200, 429, 503}
    with serving((), limit_concurrency=allow_connections(1), max_concurrency=1) as client:
        assert asyncio.run(burst(port_of(client))) == {200, 429}


def test_an_upstream_that_is_too_slow(serving, upstream):
    upstream.delay = 30.0
    with serving(timeout=0.3) as client:
        with pytest.raises(openai.APIStatusError, match=r"within 0\.3 seconds") as caught:
            ask(client)
        assert caught.value.status_code == 504
        assert eventually(lambda: upstream.cancelled == 1)
        with pytest.raises(openai.APIStatusError, match="did not answer in time"):
            client.with_options(timeout=5).models.list()
        with pytest.raises(openai.APIError, match=r"within 0\.3 seconds"):
            list(ask(client, stream=True))


def test_a_body_that_does_not_come(serving):
    with serving(patience=0.3) as client, send_head(client) as slow:
        assert slow.recv(100).startswith(b"HTTP/1.1 408")


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(PatientProtocol, "patience", 0.5)


@pytest.mark.parametrize("before", ["", "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"])
def test_a_request_that_never_begins_is_hung_up_on(serving, impatient, before):
    with serving() as client, socket.create_connection(("127.0.0.1", port_of(client)), timeout=20) as slow:
        slow.sendall(f"{before}POST /v1/".encode())

        def hung_up():  # although a byte comes now and then
            try:
                slow.sendall(b"c")
                return not slow.recv(1000, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return False
            except ConnectionError:
                return True

        assert eventually(hung_up)


@pytest.mark.parametrize("route", ["/nowhere", "/v1/chat/completions"])
@pytest.mark.parametrize("drip", [False, True])
def test_a_body_that_nobody_reads_is_not_waited_for(serving, impatient, route, drip):
    with serving() as client, socket.create_connection(("127.0.0.1", port_of(client)), timeout=5) as slow:
        slow.sendall(f"POST {route} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999\r\n\r\n".encode())
        assert slow.recv(1000).startswith(b"HTTP/1.1 4")
        slow.sendall(b"x")  # which ends uvicorn's own limit
        end = time.monotonic() + 5
        with suppress(ConnectionError):
            while drip:
                assert time.monotonic() < end
                slow.sendall(b"x")
                time.sleep(0.05)
            while slow.recv(1000):
                pass


def test_the_rest_of_a_body_may_come_behind_the_answer(serving, impatient):
    with serving() as client, socket.create_connection(("127.0.0.1", port_of(client)), timeout=5) as slow:
        slow.sendall(b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nx")
        assert slow.recv(1000).startswith(b"HTTP/1.1 404")
        slow.sendall(b"xGET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        time.sleep(0.7)  # longer than the patience: with the rest of the body the wait for it is over
        slow.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        time.sleep(0.2)
        assert slow.recv(10_000).count(b"200 OK") == 2


def test_an_answer_that_is_not_read_frees_its_place(serving, upstream, impatient):
    upstream.answer = lambda body: ("x" * (8 << 20),)  # more than the buffers of the machine take
    body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "x"}]}
    with serving((), max_concurrency=1) as client:
        connection = http.client.HTTPConnection("127.0.0.1", port_of(client))
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
        assert eventually(lambda: upstream.asked)
        upstream.answer = lambda body: "y"
        assert eventually(lambda: post(client, json.dumps(body | {"stream": False}))[0] == 200)
        connection.close()


@pytest.fixture
def small_buffers(monkeypatch):
    """The machine's own buffers are small, so that a little that is read makes room at once."""
    made = PatientProtocol.connection_made

    def connection_made(self, transport):
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        made(self, transport)

    monkeypatch.setattr(PatientProtocol, "connection_made", connection_made)


async def many_events(self, piece):
    for _ in range(20_000):
        yield "data: " + "x" * 4000 + "\n\n"


def test_an_answer_that_is_read_a_little_now_and_then_ends_too(
    serving, upstream, impatient, small_buffers, monkeypatch
):
    monkeypatch.setattr("scorl.serve.app.Answering.events", many_events)
    body = json.dumps(ASKED | {"stream": True}).encode()
    with serving((), max_concurrency=1, timeout=1.0, patience=0.5) as client, send_head(client, len(body)) as slow:
        slow.sendall(body)
        read, end = 0, time.monotonic() + 5
        with suppress(ConnectionError):
            while more := slow.recv(100_000):
                read += len(more)
                assert time.monotonic() < end
                time.sleep(0.05)
        assert read > 200_000
        assert post(client, json.dumps(ASKED))[0] == 200  # its place is free


def test_the_time_for_a_stream_begins_with_the_request(serving, upstream, small_buffers, monkeypatch):
    first_piece = Answering.next

    async def late(self):
        await asyncio.sleep(1.5)
        return await first_piece(self)

    monkeypatch.setattr(Answering, "next", late)
    monkeypatch.setattr(Answering, "events", many_events)
    body = json.dumps(ASKED | {"stream": True}).encode()
    with serving((), timeout=2.0, patience=0.5) as client, send_head(client, len(body)) as slow:
        began = time.monotonic()
        slow.sendall(body)
        with suppress(ConnectionError):
            while slow.recv(100_000):
                time.sleep(0.05)
        assert 1.5 < time.monotonic() - began < 3.8  # not 1.5 s behind its end, which is after 2.5


def test_a_crowd_never_gets_past_the_limit(serving, upstream):
    upstream.delay = 0.2

    async def crowd(port):
        async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="key", max_retries=0) as client:
            asked = [{"model": "m", "messages": [{"role": "user", "content": str(n)}]} for n in range(60)]
            return await asyncio.gather(
                *(client.chat.completions.create(**fields) for fields in asked), return_exceptions=True
            )

    with serving((), max_concurrency=4) as client:
        answers = asyncio.run(crowd(port_of(client)))
        refused = [answer for answer in answers if isinstance(answer, openai.RateLimitError)]
        answered = [answer for answer in answers if not isinstance(answer, Exception)]
        assert len(refused) + len(answered) == 60
        assert refused
        assert len(answered) == len(upstream.asked) >= 4
        assert upstream.most == 4
        upstream.delay = 0.0
        assert ask(client).choices


@pytest.mark.parametrize("stream", [False, True])
def test_too_many_at_once_are_told_to_come_again(serving, upstream, stream):
    upstream.delay = 0.5
    with serving(max_concurrency=1) as client:
        thread = threading.Thread(target=lambda: list(ask(client, stream=stream)))
        thread.start()
        assert eventually(lambda: upstream.asked)
        with pytest.raises(openai.RateLimitError, match="as many as this proxy takes") as caught:
            ask(client)
        assert caught.value.response.headers["retry-after"] == "1"
        upstream.delay = 0.0
        thread.join()
        assert ask(client).choices


@pytest.mark.parametrize("stream", [False, True])
def test_who_hangs_up_ends_the_question_upstream(serving, upstream, stream):
    upstream.delay = 20.0
    with serving(max_concurrency=1) as client:
        body = {"model": "m", "stream": stream, "messages": [{"role": "user", "content": "x"}]}
        connection = http.client.HTTPConnection("127.0.0.1", port_of(client))
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
        assert eventually(lambda: upstream.asked)
        time.sleep(0.2)
        connection.close() if connection.sock is None else connection.sock.close()
        assert eventually(lambda: upstream.cancelled == 1)
        upstream.delay = 0.0
        assert ask(client).choices  # and its place is free


# The upstream's errors


@pytest.mark.parametrize(
    ("status", "error", "said"),
    [
        (400, openai.BadRequestError, "the upstream says: no such thing"),
        (404, openai.NotFoundError, "the upstream says: no such thing"),
        (401, openai.InternalServerError, "does not take the key of this proxy"),
        (500, openai.InternalServerError, "the upstream says: no such thing"),
        (429, openai.RateLimitError, "the upstream says: no such thing"),
    ],
)
def test_errors_of_the_upstream(serving, upstream, status, error, said, monkeypatch):
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)
    monkeypatch.setattr("openai._base_client.MAX_RETRY_DELAY", 0.01)
    upstream.status, upstream.headers = status, {"retry-after": "0.01"}
    with serving() as client, pytest.raises(error, match=said) as caught:
        ask(client)
    if status == 429:
        assert caught.value.response.headers["retry-after"] == "0.01"


def test_an_upstream_that_breaks_off_or_is_not_there(serving, upstream):
    upstream.breaks = True
    with serving() as client, pytest.raises(openai.APIError, match="broke off"):
        list(ask(client, stream=True))
    with running(make_app(ServeSettings("http://127.0.0.1:9/v1", ()))) as port:
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="key", max_retries=0)
        with pytest.raises(openai.InternalServerError, match="cannot be reached"):
            ask(client)


class OddUpstream(FakeUpstream):
    """Answers with what it is given: a body of JSON, or lines of a stream."""

    async def complete(self, request):
        body = await request.json()
        self.asked.append(body)
        if "stream_options" in body and self.status == 400:
            return JSONResponse({"error": {"message": "stream_options: unknown field"}}, 400)
        if body.get("stream"):
            return StreamingResponse((f"data: {line}\n\n" for line in self.lines), media_type="text/event-stream")
        return Response(self.body, self.status, self.headers, media_type="application/json")

    async def models(self, request):
        if self.delay:
            return StreamingResponse(self.drip(), media_type="application/json")
        return Response(self.body, media_type="application/json")


def odd(finish="stop", usage=None, **message):
    """A completion as JSON, in ASCII."""
    return json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": finish}], "usage": usage})


def chunk(finish=None, **delta):
    return json.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})


ODD = (None, True, -1, 10**4200, float("nan"), "\ud800", "x\x1b]0;x\x07", [], {}, [[]], {"a": float("inf")})
"""What a field may have in the place of what belongs there."""


def replace_each(value, odd):
    """The value with each of its parts replaced, one at a time."""
    yield odd
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        for changed in replace_each(value[key], odd):
            copy = value.copy()
            copy[key] = changed
            yield copy


def read_strictly(text):
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def is_our_fault(error):
    return error["type"] == "server_error" or not isinstance(error["message"], str)


@pytest.fixture
def odd_upstream(upstream):
    return OddUpstream()


@pytest.fixture
def in_front(odd_upstream):
    with running(odd_upstream.app) as behind, running(make_app(settings_for(behind))) as port:
        yield openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="key", max_retries=0)


def settings_for(port):
    return ServeSettings(f"http://127.0.0.1:{port}/v1", Correction()(AGAIN, 2))


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (odd(content=[{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "36"}]), "36"),
        (odd(content="36\ud83d"), "36?"),
        (odd(content="36", usage={"prompt_tokens": 3}), "36"),
        (odd(content=None, refusal="I cannot."), "I cannot."),
        (odd(content=None), ""),
    ],
)
def test_odd_answers_that_can_be_read(in_front, odd_upstream, body, text):
    odd_upstream.body = body
    said = ask(in_front)
    assert (said.choices[0].message.content, said.usage) == (text, None)


@pytest.mark.parametrize(
    "body", ['{"choices": [{"message": null}]}', '{"choices": []}', "{bad", "<html>", "[1]", "3", odd(content=3)]
)
def test_what_cannot_be_read_is_the_upstream_s_fault(in_front, odd_upstream, body):
    odd_upstream.body = body
    with pytest.raises(openai.InternalServerError, match="something else than OpenAI's protocol") as caught:
        ask(in_front)
    assert caught.value.status_code == 502


DEEP = "[" * 100_000
WHOLE = json.loads(odd(content="36", usage={"prompt_tokens": 3, "completion_tokens": 4}))
REFUSAL = {"error": {"message": "no", "type": "a", "param": "b", "code": "c"}}
LIST = {"object": "list", "data": [{"id": "m", "object": "model", "created": 1, "owned_by": "me"}]}


@pytest.mark.parametrize(("path", "status", "body"), [("/chat/completions", 200, WHOLE), ("/models", 200, LIST)])
def test_no_field_of_an_answer_breaks_the_proxy(in_front, odd_upstream, path, status, body):
    check_each(in_front, odd_upstream, path, body)


def test_no_field_of_an_error_breaks_the_proxy(in_front, odd_upstream):
    odd_upstream.status, odd_upstream.headers = 422, {"retry-after": "\xff"}
    check_each(in_front, odd_upstream, "/chat/completions", REFUSAL)
    odd_upstream.body, odd_upstream.status = json.dumps(REFUSAL), 429
    odd_upstream.headers = {"retry-after": "\xe2\x82\xac", "x-should-retry": "false"}
    assert post(in_front, json.dumps(ASKED))[1]["retry-after"] == "1"


ASKED = {"model": "m", "messages": [{"role": "user", "content": "x"}]}


def check_each(client, upstream, path, body):
    connection = http.client.HTTPConnection("127.0.0.1", port_of(client), timeout=20)
    asked = ("GET", None) if path == "/models" else ("POST", json.dumps(ASKED))
    for text in itertools.chain([DEEP, DEEP * 20], (json.dumps(b) for odd in ODD for b in replace_each(body, odd))):
        upstream.body = text
        connection.request(asked[0], f"/v1{path}", asked[1], {"content-type": "application/json"})
        response = connection.getresponse()
        answer = read_strictly(response.read())
        assert response.status == 200 or not is_our_fault(answer["error"]), text[:300]


def test_no_field_of_a_stream_breaks_the_proxy(in_front, odd_upstream):
    piece = json.loads(chunk(content="36")) | {"usage": {"prompt_tokens": 3, "completion_tokens": 4}}
    for line in itertools.chain([DEEP], (json.dumps(b) for odd in ODD for b in replace_each(piece, odd))):
        odd_upstream.lines = [line, chunk("stop"), "[DONE]"]
        refusals = []
        try:
            for said in ask(in_front, stream=True):
                read_strictly(said.model_dump_json(warnings=False))
        except openai.APIError as error:
            refusals.append(error.body)
        assert not any(map(is_our_fault, refusals)), line[:300]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_an_answer_without_end_is_not_read(in_front, odd_upstream, monkeypatch, stream, packed):
    monkeypatch.setattr("scorl.engines.openai.bounds.MOST_BYTES", 100_000)
    odd_upstream.lines = [chunk(content="x" * 60_000)] * 3
    odd_upstream.body = odd(content="x" * 200_000)
    if packed and not stream:  # fits as it is sent
        odd_upstream.body, odd_upstream.headers = (
            gzip.compress(odd_upstream.body.encode()),
            {"content-encoding": "gzip"},
        )
    with pytest.raises(openai.APIError, match="does not end"):
        list(ask(in_front, stream=True)) if stream else ask(in_front)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([chunk(content="3")], "broke off"),
        ([chunk(content="3"), "[DONE]"], "broke off"),
        ([chunk(content="3"), "{bad"], "something else"),
        ([chunk(content="3"), '{"choices": [{"delta": null}]}'], "something else"),
        ([], "something else"),
    ],
)
def test_a_stream_that_cannot_be_read_ends_with_an_error(in_front, odd_upstream, lines, said):
    odd_upstream.lines = lines
    with pytest.raises(openai.APIError, match=said):
        list(ask(in_front, stream=True))


def test_odd_streams_that_can_be_read(in_front, odd_upstream):
    odd_upstream.status = 400  # it refuses stream_options
    usage = '{"choices": null, "usage": {"prompt_tokens": 3}}'
    odd_upstream.lines = [chunk(content="36\ud83d"), chunk(refusal=" No."), usage, chunk("stop"), "[DONE]"]
    chunks = list(ask(in_front, stream=True))
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == "36? No."
    assert ["stream_options" in body for body in odd_upstream.asked] == [True, False, False]


def test_our_own_fault_in_a_stream_is_an_error_too(serving, upstream, monkeypatch):
    monkeypatch.setattr("scorl.serve.correcting.Corrected.as_dict", lambda self: 1 / 0)
    with serving() as client, pytest.raises(openai.APIError, match="the proxy failed"):
        list(ask(client, stream=True))


# Keys


def test_keys_go_where_they_belong_and_nowhere_else(serving, upstream):
    settings = {"api_key": "secret-of-callers", "upstream_key": "secret-of-upstream"}
    assert "secret" not in repr(ServeSettings("http://127.0.0.1:9/v1", (), **settings))
    with serving(**settings) as client:
        with pytest.raises(openai.AuthenticationError, match="wrong or missing API key"):
            ask(client)
        with pytest.raises(openai.AuthenticationError):
            client.models.list()
        assert upstream.asked == []
        ask(client.with_options(api_key="secret-of-callers"))
    assert upstream.keys == ["Bearer secret-of-upstream"] * 2
    upstream.status, upstream.error = (
        422,
        {"error": {"message": "secret-of-upstream may not do this", "code": "bad_key:secret-of-upstream"}},
    )
    with (
        serving(upstream_key="secret-of-upstream") as client,
        pytest.raises(openai.UnprocessableEntityError, match=r"the upstream says: \*\*\* may not") as caught,
    ):
        ask(client)
    assert caught.value.code == "bad_key:***"


# The command


def test_the_command_serves_until_it_is_interrupted(upstream):
    with running(upstream.app) as behind:
        command = [
            "scorl",
            "serve",
            "--upstream",
            f"http://127.0.0.1:{behind}",
            "--host",
            "127.0.0.2",
            "--port",
            "0",
            "--task",
            "countdown",
        ]
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"OPENAI_API_KEY": "secret-of-upstream"},
        )
        address = process.stderr.readline().split()[0]
        assert address.startswith("http://127.0.0.2:")
        client = openai.OpenAI(base_url=address, api_key="key", max_retries=0)
        assert ask(client).choices[0].message.content == SECOND
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=20)[1]
    assert process.returncode == 0
    assert said.endswith("stopped\n")
    assert "Traceback" not in said
    assert "secret" not in said
    assert upstream.asked[1]["messages"][-1]["content"].startswith("There might be an error in the solution above.")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--upstream", "8000"], "this is no address of an API"),
        (["--upstream", "http://[::1"], "this is no address of an API"),
        (["--upstream", "http://a", "--correction", ""], "--correction: the text is empty"),
        (["--upstream", "http://a:b@c/v1"], "a key goes into OPENAI_API_KEY"),
        (["--upstream", "http://a", "--task", "countdown", "--correction", "x"], "give one of them"),
        (["--upstream", "http://a", "--run", "nowhere"], "no run directory"),
        (["--upstream", "http://a", "--api-key-env", "NOT_THERE"], "NOT_THERE is empty"),
        (["--upstream", "http://a", "--task", "contdown"], "countdown"),
        (["--upstream", "http://a", "--api-key-env", "WITH_A_BREAK"], "WITH_A_BREAK: this is no key"),
    ],
)
def test_mistakes_are_said(scorl, arguments, said, monkeypatch):
    monkeypatch.setenv("WITH_A_BREAK", "secret\nof mine")
    code, _, err = scorl("serve", *arguments)
    assert code == 2
    assert "secret" not in err
    assert said in err


@pytest.mark.parametrize(
    ("host", "warns"), [("127.0.0.1", False), ("localhost", False), ("::1", False), ("0.0.0.0", True)]
)
def test_who_opens_it_to_others_is_told(scorl, monkeypatch, host, warns):
    monkeypatch.setattr("uvicorn.Server.run", lambda *arguments, **named: None)
    monkeypatch.setattr("socket.create_server", lambda *arguments, **named: socket.socket())
    code, _, err = scorl("serve", "--upstream", "http://127.0.0.1:9", "--host", host)
    assert code == 0
    assert ("is not this machine alone" in err) == warns


def test_a_port_that_is_taken_is_said(scorl):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, _, err = scorl("serve", "--upstream", "http://a", "--port", taken.getsockname()[1])
    assert code == 2
    assert "cannot listen there: " in err
    assert "asks" not in err
