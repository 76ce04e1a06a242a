"""The engine `openai` against a small server of our own over real HTTP; other people's: make test-endpoints."""

import asyncio
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from contextlib import suppress

import pytest
from starlette.responses import HTMLResponse, Response, StreamingResponse
from support.endpoint import FakeEndpoint, completion, error

from scorl.engines import ENGINES, Request
from scorl.engines.openai.endpoint import Endpoint
from scorl.engines.openai.engine import OpenAIEngine
from scorl.engines.openai.journal import Question
from scorl.errors import UserError
from scorl.settings import OpenAISettings
from scorl.trajectory import user

KEY = "sk-secret-of-mine"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """No file of the user's is touched, and no key of theirs is sent."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


@pytest.fixture
def server():
    with FakeEndpoint() as server:
        yield server


@pytest.fixture
def engine(server, tmp_path):
    """Makes engines that share one journal."""

    def make(model="small-model", **settings):
        settings = {"base_url": server.url, "responses": str(tmp_path / "journal.jsonl"), **settings}
        return OpenAIEngine(model, OpenAISettings(**settings))

    return make


def ask(engine, *questions, temperature=1.0, max_tokens=9, seed=0):
    requests = [Request(engine.chat.prompt([user(q)]), seed + i) for i, q in enumerate(questions)]
    samples = engine.sample(requests, temperature=temperature, max_tokens=max_tokens)
    return [engine.chat.text(sample.ids) for sample in samples]


def test_answers_in_order_however_long_each_takes(server, engine):
    server.delay = 0.05
    asked = [f"q{i}" for i in range(20)]
    assert ask(engine(concurrency=5), *asked) == [f"answer to: q{i}" for i in range(20)]
    assert server.most == 5
    assert len(server.bodies) == 20


def test_a_conversation_is_sent_as_messages_and_grows_at_its_end(server, engine):
    asking = engine()
    prompt = asking.chat.prompt([{"role": "system", "content": "Be brief."}, user("2+2?")])
    (first,) = asking.sample([Request(prompt, 3)], temperature=0.5, max_tokens=9)
    second = asking.chat.follow(prompt, first.ids, "Again.")
    assert second[: len(prompt) + len(first.ids)] == prompt + first.ids
    (sample,) = asking.sample([Request(second, 2**40 + 5)], temperature=0.5, max_tokens=9)
    assert [m["content"] for m in server.bodies[1]["messages"]] == ["Be brief.", "2+2?", "answer to: 2+2?", "Again."]
    assert [m["role"] for m in server.bodies[1]["messages"]] == ["system", "user", "assistant", "user"]
    assert server.bodies[1] | {"messages": 0} == {
        "messages": 0,
        "model": "small-model",
        "temperature": 0.5,
        "max_tokens": 9,
        "seed": 5,
    }
    assert (sample.tokens, sample.finish, sample.logprobs) == (3, "stop", (0.0,))


def test_a_greedy_answer_takes_no_seed_and_is_asked_for_once(server, engine):
    assert ask(engine(), "q", "q", temperature=0) == ["answer to: q"] * 2
    assert ["seed" in body for body in server.bodies] == [False]
    assert len(ask(engine(), "q", "q")) == 2
    assert [body["seed"] for body in server.bodies[1:]] == [0, 1]


def test_further_fields_are_passed_and_belong_to_the_question(server, engine):
    ask(engine(), "q")
    ask(engine(extra_body={"chat_template_kwargs": {"enable_thinking": False}}), "q")
    assert "chat_template_kwargs" not in server.bodies[0]
    assert server.bodies[1]["chat_template_kwargs"] == {"enable_thinking": False}


@pytest.mark.parametrize(
    ("answer", "text", "finish", "refusals"),
    [
        (completion("cut o", "length"), "cut o", "length", 0),
        (completion(None, reasoning_content="hmm"), "", "stop", 0),
        (completion(None, refusal="I will not."), "I will not.", "stop", 1),
        (completion("", "content_filter"), "", "stop", 1),
        (completion("half \ud83d"), "half ?", "stop", 0),
        (completion([{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "4"}]), "4", "stop", 0),
    ],
)
def test_what_counts_of_an_answer(server, engine, answer, text, finish, refusals):
    server.answer = lambda body: answer
    asking = engine()
    (sample,) = asking.sample([Request(asking.chat.prompt([user("q")]), 0)], temperature=0, max_tokens=9)
    assert (asking.chat.text(sample.ids), sample.finish, asking.usage.refusals) == (text, finish, refusals)
    assert asking.usage.truncated == (finish == "length")


def test_a_server_that_counts_nothing(server, engine):
    server.answer = lambda body: completion("4", usage=False)
    asking = engine()
    (sample,) = asking.sample([Request(asking.chat.prompt([user("q")]), 0)], temperature=0, max_tokens=9)
    assert sample.tokens == -1
    assert "tokens not counted" in str(asking.usage)
    with pytest.raises(UserError, match="max_requests"):
        ask(engine(max_total_tokens=100), "another")


# Retries, which are the client's


def test_a_busy_server_is_asked_again_when_it_says(server, engine):
    server.faults.extend([error(429, "slow down", {"Retry-After": "1"}), error(503, "starting")])
    asking = engine()
    assert ask(asking, "q") == ["answer to: q"]
    first, second, third = (at for at, _ in server.asked)
    assert 0.95 < second - first < 2
    assert third - second > 0.3
    assert asking.usage.retries == 2


def test_a_server_that_stays_busy_ends_it_and_keeps_what_was_answered(server, engine):
    asking = engine(max_retries=1, concurrency=1)
    server.faults.extend([None, None, *[error(429, "no credit", {"Retry-After": "0.01"})] * 2])
    with pytest.raises(UserError, match=r"takes no more requests.*no credit\n2 answers are kept in .*, 2 of them new"):
        ask(asking, "a", "b", "c", "d")
    assert len(server.bodies) == 4


def test_a_server_that_asks_for_an_hour_is_not_waited_for(server, engine):
    server.faults.append(error(429, "later", {"Retry-After": "3600"}))
    start = time.monotonic()
    with pytest.raises(UserError, match="takes no more requests for now"):
        ask(engine(), "q")
    assert time.monotonic() - start < 5


def test_a_timeout(server, engine):
    server.delay = 2
    with pytest.raises(UserError, match=r"not answered in time: a longer engine\.timeout"):
        ask(engine(timeout=0.2, max_retries=1), "q")
    assert len(server.bodies) == 2


def test_no_server_is_said_at_once(engine):
    start = time.monotonic()
    with pytest.raises(UserError, match=r"no server answers at http://127\.0\.0\.1:9/v1: .*refused"):
        ask(engine(base_url="http://127.0.0.1:9"), "q", "r")
    assert time.monotonic() - start < 5


# What a server does not take


def refuses(name, **more):
    """A fault for requests that have a field."""

    def answer(body):
        return error(400, f"Unsupported parameter: '{name}'{more.get('hint', '')}") if name in body else None

    return answer


def test_a_server_without_seeds_is_told_none_and_it_is_said_once(server, engine):
    server.faults.extend([refuses("seed")] * 9)
    with pytest.warns(UserWarning, match="takes no seed") as said:
        assert len(ask(engine(), "a", "b", "c")) == 3
    assert sum("takes no seed" in str(warning.message) for warning in said) == 1
    assert ["seed" in body for body in server.bodies] == [True, False, False, False]


def test_a_model_that_wants_the_limit_by_another_name(server, engine):
    hint = " is not supported with this model. Use 'max_completion_tokens' instead."
    server.faults.extend([refuses("max_tokens", hint=hint)] * 9)
    ask(engine(), "a", "b")
    assert [body.get("max_completion_tokens") for body in server.bodies] == [None, 9, 9]
    assert "max_tokens" not in server.bodies[1]


def test_a_fault_of_fastapi_names_its_field_and_not_the_request(server, engine):
    detail = {"detail": [{"loc": ["body", "seed"], "msg": "extra", "input": {"messages": "all of it"}}]}
    server.faults.append(Response(json.dumps(detail), 422, media_type="application/json"))
    with pytest.warns(UserWarning, match="takes no seed"):
        ask(engine(), "q")
    other = {"detail": [{"loc": ["body", "top"], "msg": "bad", "input": {"messages": "all of it"}}]}
    server.faults.append(Response(json.dumps(other), 422, media_type="application/json"))
    with pytest.raises(UserError, match=r"refuses the request \(422\): body\.top: bad\n"):
        ask(engine(), "r")


# Faults that are the user's


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (error(401, f"Incorrect API key provided: {KEY[:6]}"), "refuses the key in OPENAI_API_KEY"),
        (error(403, "no"), "refuses the key in OPENAI_API_KEY"),
        (error(404, "The model does not exist"), "has no model 'smal-model': did you mean 'small-model'?"),
        (error(400, "This model's maximum context length is 5 tokens"), "does not fit into the model's context"),
        (error(400, f"bad, {KEY} sent"), r"refuses the request \(400\): bad, \*\*\* sent"),
        (error(400, "x" * 285 + KEY), r"x\*\*\*\n"),
        (error(500, "out of memory"), r"failed \(500\), also after engine.max_retries: out of memory"),
        (HTMLResponse("<!DOCTYPE html><p>hello"), "does not speak OpenAI's protocol: a web page in place of JSON"),
        (HTMLResponse("<html>gone</html>", 502), r"failed \(502\).*a web page in place of JSON"),
        (Response('{"choices": [', media_type="application/json"), "does not speak OpenAI's protocol"),
        (Response('{"error": {"message": "upstream"}}', media_type="application/json"), "without choices: .*upstream"),
        (Response("[" * 100_000, media_type="application/json"), "does not speak OpenAI's protocol"),
        (Response("[1]", media_type="application/json"), "does not speak OpenAI's protocol"),
        (Response("", media_type="application/json"), "does not speak OpenAI's protocol"),
    ],
)
def test_each_fault_is_a_sentence(server, engine, fault, said):
    server.faults.append(fault)
    with pytest.raises(UserError, match=said) as caught:
        ask(engine("smal-model", max_retries=0), "q", "r")
    assert KEY not in str(caught.value)
    assert KEY[:6] not in str(caught.value)
    assert len(server.bodies) == 1


@pytest.mark.parametrize("key", ["sk-mine\nof-mine", "sk-mine of", "sk-m\xefne"])
def test_a_key_that_no_header_can_carry_is_not_repeated(server, engine, monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(UserError, match="OPENAI_API_KEY: this is no key") as caught:
        engine()
    assert "sk-" not in str(caught.value)
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\n")  # of a file
    ask(engine(), "q")
    assert server.keys == [f"Bearer {KEY}"]


def test_an_answer_that_does_not_end_is_given_up(server, engine, monkeypatch):
    server.faults.append(StreamingResponse(drip(100), media_type="application/json"))
    with pytest.raises(UserError, match="in time"):
        ask(engine(max_retries=0, timeout=0.4), "q")
    monkeypatch.setattr("scorl.engines.openai.bounds.MOST_BYTES", 1000)
    server.faults.append(Response("x" * 1001, media_type="application/json"))
    with pytest.raises(UserError, match="its answer is longer than"):
        ask(engine(max_retries=0), "q")


@pytest.mark.parametrize("pause", [0.05, 9], ids=["drips", "stalls"])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("head", ["X-Slow: ", "Content-Length: 1000\r\n\r\n"])
def test_an_answer_that_drips_ends_with_the_timeout_from_its_first_byte_on(head, stream, pause):
    listener = socket.create_server(("127.0.0.1", 0))

    def answer_slowly():
        connection = listener.accept()[0]
        with connection, suppress(OSError):
            connection.recv(1 << 16)
            connection.sendall(f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n{head}".encode())
            while True:
                connection.sendall(b" ")
                time.sleep(pause)

    threading.Thread(target=answer_slowly, daemon=True).start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    endpoint = Endpoint("m", OpenAISettings(base_url=url, timeout=0.4, max_retries=0))
    question, start = Question([user("q")], 0.0, 5, None), time.monotonic()
    with listener, pytest.raises(UserError, match="in time"):
        list(endpoint.stream(question)) if stream else endpoint.ask(question)
    assert time.monotonic() - start < 3


async def drip(count):
    """A byte now and then, so that no wait for the next one is long."""
    for _ in range(count):
        yield b" "
        await asyncio.sleep(0.05)


def test_what_a_server_says_does_not_steer_the_terminal(scorl, server):
    server.faults.append(error(400, "no\x1b]0;mine\x07 \x9b2J \u202eflip"))
    code, _, said = evaluate(scorl, server)
    assert code == 2
    assert "no\ufffd]0;mine\ufffd \ufffd2J \ufffdflip" in said


def test_a_missing_key_is_asked_for(server, engine, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    server.faults.append(error(401, "who are you"))
    with pytest.raises(UserError, match="wants a key: set OPENAI_API_KEY"):
        ask(engine(), "q")
    with pytest.raises(UserError, match="wants a key in OPENAI_API_KEY"):
        ENGINES["openai"].check(OpenAISettings())


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("localhost:8000/v1", "no address of an API"),
        ("ftp://there/v1", "no address of an API"),
        ("http://[::1", "no address of an API"),
        ("http://there:99999/v1", "no address of an API"),
        ("http://me:secret@there/v1", "no name, password or query"),
        ("http://there/v1?key=secret", "no name, password or query"),
    ],
)
def test_addresses(url, said):
    with pytest.raises(UserError, match=said) as caught:
        OpenAISettings(base_url=url)
    assert "secret" not in str(caught.value)


def test_an_address_from_the_environment_is_checked_alike(server, engine, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", server.url.removesuffix("/v1"))
    assert ask(engine(base_url=None), "q") == ["answer to: q"]
    monkeypatch.setenv("OPENAI_BASE_URL", "http://me:secret@there/v1")
    with pytest.raises(UserError, match="no name, password or query"):
        engine(base_url=None)


@pytest.mark.parametrize(
    ("proxy", "said"),
    [
        ("odd://me:hunter2@there:1", "no address of a proxy"),
        ("http://[::hunter2", "no address of a proxy"),
        ("socks5://me:hunter2@there:1", "pip install socksio"),
    ],
)
def test_a_proxy_that_is_none_is_said_without_its_password(scorl, monkeypatch, proxy, said):
    if said.endswith("socksio") and importlib.util.find_spec("socksio"):
        pytest.skip("socksio is installed")
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "all_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ALL_PROXY", proxy)
    asked, served = ("solve", "openai:m@http://there/v1", "2+2?"), ("serve", "--upstream", "http://there", "--port", 0)
    for arguments in (asked, served):
        code, out, err = scorl(*arguments)
        assert (code, out) == (2, "")
        assert "scorl: ALL_PROXY: " in err
        assert said in err
        assert "hunter2" not in err
    with pytest.raises(UserError, match=r"^ALL_PROXY: "):
        Endpoint("m", OpenAISettings(base_url="http://there/v1"))


@pytest.mark.parametrize("proxy", [None, "http://127.0.0.1:3128"])
@pytest.mark.parametrize("there", [False, True])
def test_certificates_that_cannot_be_read_are_no_fault_of_the_proxy(monkeypatch, tmp_path, proxy, there):
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    if proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy)
    if there:
        (tmp_path / "odd.pem").write_text("no certificate")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "odd.pem"))
    with pytest.raises(UserError, match=r"^SSL_CERT_FILE: no certificates can be read there: "):
        Endpoint("m", OpenAISettings(base_url="http://there/v1"))


def test_an_address_without_a_path_means_v1():
    assert OpenAISettings(base_url="http://there:8000").base_url == "http://there:8000/v1"
    assert OpenAISettings(base_url="http://there:8000/api/").base_url == "http://there:8000/api/"


# The journal


def test_nothing_is_asked_twice(server, engine):
    before = ask(engine(), "a", "b")
    again = engine()
    assert "2 are there already" in again.describe()
    assert ask(again, "a", "b", "c") == [*before, "answer to: c"]
    assert len(server.bodies) == 3
    assert (again.usage.requests, again.usage.from_journal, again.usage.prompt_tokens) == (3, 2, 21)


@pytest.mark.parametrize("other", [{"temperature": 0.5}, {"max_tokens": 10}, {"seed": 1}])
def test_another_question_is_asked(server, engine, other):
    ask(engine(), "a")
    ask(engine(), "a", **other)
    assert len(server.bodies) == 2
    ask(engine("another"), "a")
    assert len(server.bodies) == 3


@pytest.mark.parametrize("torn", [1, 2, 9, 80, 1000])
def test_a_torn_line_is_left_out_wherever_it_stands(server, engine, tmp_path, torn):
    ask(engine(), "a", "b", temperature=0)
    journal = tmp_path / "journal.jsonl"
    whole = journal.read_bytes().splitlines(keepends=True)
    left = max(1, len(whole[1]) - torn)  # of the second line at least a character
    journal.write_bytes(whole[0] + whole[1][:left])
    ask(engine(), "b", "c", temperature=0)
    ask(engine(), "a", "b", "c", temperature=0)
    assert len(server.bodies) == (3 if torn == 1 else 4)
    assert len(journal.read_text().splitlines()) == (3 if torn == 1 else 4)


def test_another_file_is_not_taken_for_a_journal(engine, tmp_path):
    mine = tmp_path / "mine.jsonl"
    mine.write_text('{"question": "a"}\n')
    with pytest.raises(UserError, match=r"mine\.jsonl, line 1, is no answer of an endpoint"):
        engine(responses=str(mine))


def test_no_key_in_the_journal(server, engine, tmp_path):
    ask(engine(), "a")
    assert server.keys == [f"Bearer {KEY}"]
    assert KEY not in (tmp_path / "journal.jsonl").read_text()


def test_by_default_it_lies_in_the_users_cache(server, engine, tmp_path):
    asking = engine(model="some/model", responses=None)
    ask(asking, "a")
    (journal,) = (tmp_path / "cache").rglob("*.jsonl")
    assert str(journal) in asking.describe()
    assert "some-model" in journal.name


def test_a_journal_that_cannot_be_written_is_said_before_anything_is_asked(server, engine, tmp_path):
    (tmp_path / "file").touch()
    for place in (tmp_path, tmp_path / "file" / "journal.jsonl"):
        with pytest.raises(UserError, match=r"engine\.responses: no answers can be kept in .*name a file"):
            engine(responses=str(place))


def test_answers_of_an_earlier_start_are_named_as_such_once(server, engine, tmp_path):
    first = engine()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ask(first, "a", "b")
        ask(first, "a", "b")
    again = engine()
    with pytest.warns(UserWarning, match=r"2 answers are taken from .*journal\.jsonl.*engine\.responses=NEW") as said:
        ask(again, "a", "b", "c")
    assert sum("answers are taken from" in str(warning.message) for warning in said) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ask(again, "a")


# The budget


def test_a_budget_of_requests_stops_it_and_the_next_start_goes_on(server, engine):
    with pytest.raises(UserError, match=r"engine\.max_requests=3 .*\n3 answers are kept in .*the same command goes on"):
        ask(engine(max_requests=3, concurrency=2), *"abcdefg")
    assert len(server.bodies) == 3
    with pytest.raises(UserError, match=r"\n6 answers are kept in .*, 3 of them new"):
        ask(engine(max_requests=3), *"abcdefg")
    assert len(ask(engine(max_requests=3), *"abcdefg")) == 7
    assert len(server.bodies) == 7


def test_a_budget_of_tokens(server, engine):
    with pytest.raises(UserError, match=r"engine\.max_total_tokens=25 \(30 used"):
        ask(engine(max_total_tokens=25, concurrency=1), *"abcdefg")
    assert len(server.bodies) == 3


# Streaming


def stream(engine, question):
    """The pieces of a greedy answer, and the sample."""
    pieces = []
    request = Request(engine.chat.prompt([user(question)]), 0)
    return pieces, engine.stream(request, pieces.append, temperature=0, max_tokens=9)


def test_an_answer_streams_and_counts(server, engine):
    asking = engine()
    pieces, sample = stream(asking, "q")
    assert pieces == ["answer ", "to: ", "q "]
    assert (asking.chat.text(sample.ids), sample.finish, sample.tokens) == ("answer to: q ", "stop", 3)
    assert server.bodies[0]["stream_options"] == {"include_usage": True}
    assert (asking.usage.requests, asking.usage.completion_tokens) == (1, 3)
    again, kept = stream(engine(), "q")
    assert again == ["answer to: q "]
    assert kept.tokens == 3
    assert len(server.bodies) == 1


def test_what_showing_raises_goes_on_to_the_caller_and_nothing_is_kept(server, engine):
    def fail(piece):
        raise ValueError("the terminal is gone")

    asking = engine()
    with pytest.raises(ValueError, match="the terminal is gone"):
        asking.stream(Request(asking.chat.prompt([user("q")]), 0), fail, temperature=0, max_tokens=9)
    stream(engine(), "q")
    assert len(server.bodies) == 2


def test_a_stream_without_an_answer(server, engine):
    server.faults.append(HTMLResponse("<html>hello</html>"))
    with pytest.raises(UserError, match="does not speak OpenAI's protocol"):
        stream(engine(), "q")
    server.faults.append(refuses("stream_options"))
    assert stream(engine(), "q")[0]


def test_a_stream_that_breaks_off_is_no_answer_and_is_not_kept(server, engine):
    server.faults.append(completion("half an ans", finish=None))
    with pytest.raises(UserError, match=r"broke off its answer, .*without a finish_reason"):
        stream(engine(), "q")
    assert stream(engine(), "q")[1].finish == "stop"
    assert len(server.bodies) == 2


@pytest.mark.parametrize(
    "message", [None, {"content": 3}, {"content": [3]}, {"content": [{"type": "text", "text": 3}]}]
)
def test_what_is_no_message(server, engine, message):
    server.answer = lambda body: completion("") | {"choices": [{"index": 0, "message": message}]}
    with pytest.raises(UserError, match="does not speak OpenAI's protocol"):
        ask(engine(), "q")


# The command


def evaluate(scorl, server, *more, model="small-model"):
    task = ("--task", "countdown", "--limit", "6", "--max-tokens", "40")
    return scorl("evaluate", f"openai:{model}@{server.url}", *task, *more)


def solve_equation(body):
    """A right answer to the task countdown's question in the second turn, a wrong one in the first."""
    return "1+1=2" if len(body["messages"]) < 3 else "no idea"


def test_the_command_measures_and_says_what_it_took(scorl, server, tmp_path):
    server.answer = solve_equation
    out = tmp_path / "evaluation.json"
    code, table, said = evaluate(scorl, server, "--out", out, "--attempts-out", tmp_path / "attempts.jsonl")
    assert code == 0, said
    assert f"asking small-model at {server.url}; answers are kept in" in said
    assert "12 requests (0 answered before), 0 retries, 84 tokens in, 36 out" in said
    summary = json.loads(out.read_text())
    assert summary["usage"]["requests"] == 12
    assert summary["metrics"]["tokens_t1"]["value"] == 3
    assert KEY not in out.read_text() + said + table
    code, again, said = evaluate(scorl, server, "--out", out)
    assert (code, again) == (0, table)
    assert "12 requests (12 answered before)" in said
    assert len(server.bodies) == 12


def test_a_panel_of_wordings_asks_for_first_attempts_once(scorl, server, tmp_path):
    code, _, said = evaluate(scorl, server, "--wordings", "neutral,placebo", "--out", tmp_path / "panel.json")
    assert code == 0, said
    assert "18 requests (0 answered before)" in said
    assert len(server.bodies) == 18
    questions = [body["messages"] for body in server.bodies if len(body["messages"]) == 3]
    assert any(first == again for first, _, again in questions)  # the placebo is the question once more


def test_solve_streams_both_attempts(scorl, server):
    code, out, said = scorl("solve", f"openai:small-model@{server.url}", "What is 2 + 2?")
    assert code == 0, said
    assert "answer to: What is 2 + 2?" in out
    assert "2 requests (0 answered before)" in said
    assert [(body["stream"], len(body["messages"])) for body in server.bodies] == [(True, 1), (True, 3)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("openai:m@localhost:8000", "--task", "countdown"), "write the URL whole, as in @http://localhost:8000"),
        (("openai:m@http://h", "--task", "countdown", "model.dtype=float32"), "model.dtype=float32: the model is else"),
        (("openai:m@http://h", "--task", "countdown", "--engine", "torch"), "not sampled by --engine torch"),
        (("openai:m@http://127.0.0.1:9/v1", "--task", "countdown"), "no server answers at http://127.0.0.1:9/v1"),
        (("openai:m@http://u:p@h/v1", "--task", "countdown"), "no name, password or query belongs there"),
    ],
)
def test_mistakes_end_the_command_with_a_sentence(scorl, arguments, said):
    code, _, errors = scorl("evaluate", *arguments)
    assert code == 2
    assert said in errors
    assert "Traceback" not in errors


def test_nothing_is_trained_or_looked_at_at_an_endpoint(scorl):
    code, _, said = scorl("train", "countdown", "engine.name=openai", "--dry-run")
    assert code == 2
    assert "engine.name: openai asks a model whose weights are elsewhere, so there is nothing to train" in said
    code, _, said = scorl("compare", "countdown", "engine.name=openai", "--methods", "base", "--dry-run")
    assert code == 2
    code, _, said = scorl("doctor", "openai:m@http://h")
    assert code == 2
    assert "is elsewhere" in said


def test_a_killed_command_asks_nothing_twice(server, tmp_path):
    server.delay = 0.1
    command = [sys.executable, "-m", "scorl", "evaluate", f"openai:m@{server.url}", "--task", "countdown", "--limit"]
    command += ["20", "engine.concurrency=2", f"engine.responses={tmp_path / 'kept.jsonl'}"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while len(server.bodies) < 10:
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    asked, kept = len(server.bodies), len((tmp_path / "kept.jsonl").read_text().splitlines())
    assert asked - kept <= 3  # those that were under way
    server.delay = 0
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"40 requests ({kept} answered before)" in done.stderr
    assert len(server.bodies) == asked + 40 - kept


def test_an_interrupt_waits_for_no_answer(server, tmp_path):
    server.delay = 60
    command = [sys.executable, "-m", "scorl", "evaluate", f"openai:m@{server.url}", "--task", "countdown"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, env={**os.environ})
    while not server.bodies:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 130
