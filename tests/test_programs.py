"""Programs judged in a sandbox: what cheats must not get, what honest ones must, and that nothing stays behind."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.hostile import ADD, CHEATS, HONEST, OBJECTS, TESTS
from support.outside import find_data

from scorl.sandbox import EndedError, LateError, SandboxError, pool
from scorl.sandbox.bubblewrap import detect_level
from scorl.sandbox.wire import Handle, WireError, decode, encode
from scorl.sandbox.workers import LineWorker
from scorl.verifiers import program, sandbox_test
from scorl.verifiers.program import Examination, broker_pool, make_request, verify

full = pytest.mark.skipif(not detect_level().full, reason=f"no full sandbox here: {detect_level().reason}")


def examine(requests):
    return broker_pool(os.getpid()).examine(requests, "required")


def judged(text, tests=TESTS, **settings):
    settings.setdefault("timeout", 2.0)
    tests = (tests,) if isinstance(tests, str) else tests
    return examine([make_request(text, Examination(tests=tests, **settings))])[0]


@full
@pytest.mark.parametrize("name", CHEATS)
def test_no_cheat_passes(name):
    assert judged(CHEATS[name]).outcome in ("failed", "error")


@full
@pytest.mark.parametrize("name", OBJECTS)
def test_an_object_cannot_answer_for_data(name):
    test, text = OBJECTS[name]
    assert judged(text, test, entry_point="add").outcome in ("failed", "error")


@full
@pytest.mark.parametrize("name", HONEST)
def test_honest_programs_pass(name):
    text, tests = HONEST[name]
    assert judged(text, tests) == ("passed", "")


@full
def test_what_went_wrong_is_said():
    assert judged("def add(a, b):\n    return a * b + 1") == ("failed", "assert add(2, 3) == 5: add(2, 3) returned 7")
    assert judged("def add(a, b):\n    return a + c") == (
        "error",
        "assert add(2, 3) == 5: raised NameError: name 'c' is not defined",
    )
    assert judged("def mul(a, b): pass", entry_point="add") == ("failed", "the program does not define add")
    assert judged("def add(a, b:").outcome == "error"
    assert judged("def add(a, b):\n    return bytearray(4 << 30)").outcome == "memory"
    assert judged("def add(a, b):\n    open('/etc/hostname', 'w')").outcome in ("forbidden", "error")
    assert judged("import os\ndef add(a, b):\n    os.mkdir('/x')").outcome == "forbidden"


@full
def test_time_is_limited():
    begun = time.monotonic()
    assert judged("while True: pass", timeout=0.2).outcome == "timeout"
    assert judged("import time\ndef add(a, b):\n    time.sleep(600)", timeout=0.2).outcome == "timeout"
    assert (
        judged("def add(a, b):\n    while True: yield 1", "assert list(add(1, 2)) == []", timeout=0.2).outcome
        == "timeout"
    )
    assert time.monotonic() - begun < 30 * pool.measure_slowness()


@full
def test_a_check_function_and_its_helpers():
    check = "def check(candidate):\n    assert candidate(4) == helper(4)\n    assert candidate(5) == 6"
    settings = {"entry_point": "f", "setup": "def helper(x):\n    return x + 1"}
    assert judged("def f(x):\n    return x + 1", check, **settings).outcome == "passed"
    forged = "def helper(x):\n    return 0\ndef f(x):\n    return 0 if x == 4 else x + 1"
    assert judged(forged, check, **settings) == ("failed", "assert candidate(4) == helper(4): f(4) returned 0")
    assert (
        judged(
            "def check(x):\n    return x", "def check(candidate):\n    assert candidate(3) == 3", entry_point="check"
        ).outcome
        == "passed"
    )


@full
def test_a_program_may_begin_with_what_must_stand_first():
    text = "from __future__ import annotations\n\ndef f(x: List[int]) -> unknown:\n    return x[0]"
    settings = {"entry_point": "f", "preamble": "from typing import List", "opening": "from typing import List\n\n"}
    check = "def check(candidate):\n    assert candidate([1]) == 1"
    assert judged(text, check, **settings) == ("passed", "")
    assert judged("from __future__ import annotations\nf = lambda x: x[0]", check, **settings) == ("passed", "")


@full
def test_pairs_of_input_and_output():
    pairs = (("1 2\n", "3\n"), ("4 5", "9"))
    program_text = "a, b = map(int, input().split())\nprint(a + b, '')\nprint()\n"
    answers = [
        examine([make_request(text, Examination(pairs=pairs, timeout=2.0))])[0]
        for text in (program_text, program_text.replace("+", "-"), "while True: print('x' * 1000)", "exit_ = 1 / 0", "")
    ]
    assert [answer.outcome for answer in answers] == ["passed", "failed", "error", "error", "failed"]
    assert answers[1].reason.startswith("test 1 of 2: printed b'-1")


@full
def test_programs_leave_by_exit_and_quit():
    pairs = (("1\n", "1\n"), ("2\n", "4\n"))
    text = "n = int(input())\nif n == 1:\n    print(1)\n    {}\nprint(n * n)\n{}"
    early = [("exit()", "quit(0)"), ("raise SystemExit", "sys = exit"), ("exit()\n    print(0)", "")]
    late = [("exit(1)", ""), ("exit('no')", ""), ("print(1); quit()", ""), ("", "exit(3)")]
    for good, ways in ((True, early), (False, late)):
        for way in ways:
            judgement = examine([make_request(text.format(*way), Examination(pairs=pairs, timeout=2.0))])[0]
            assert (judgement.outcome == "passed") is good, (way, judgement)
    for way in ("exit", "quit"):
        assert judged(f"{way}()\n{ADD}").outcome == "error"
        assert judged(f"def add(a, b):\n    {way}(0)") == ("error", "assert add(2, 3) == 5: raised SystemExit: 0")
        assert judged(f"def {way}(a):\n    return a + 1", f"assert {way}(1) == 2").outcome == "passed"
        assert judged("def add(a, b):\n    return a + b", f"{way}(0)\n{TESTS[0]}").outcome == "error"


@full
def test_bombs_do_not_disturb_their_neighbours():
    fork = (
        "import os\ndef add(a, b):\n    while True:\n        try: os.fork(), os.setsid()\n        except OSError: pass"
    )
    memory = (
        "def add(a, b):\n    x = []\n    while True:\n"
        "        try: x.append(bytearray(1 << 24))\n        except MemoryError: pass"
    )
    files = "def add(a, b):\n    i = 0\n    while True:\n        i += 1\n        open(f'f{i}', 'w').close()"
    texts = [ADD, fork, ADD, memory, ADD, files, ADD, ADD]
    answers = examine([make_request(text, Examination(tests=TESTS, timeout=0.5)) for text in texts])
    assert [answer.outcome == "passed" for answer in answers] == [text == ADD for text in texts]
    assert {answer.outcome for answer in answers} <= {"passed", "timeout", "memory", "error"}


@full
def test_nothing_stays_behind(tmp_path):
    code = (
        "import os\nfrom scorl.verifiers.program import *\n"
        'text = \'import os, subprocess\\nopen("left", "w").close()\\nos.fork()\\ndef add(a, b):\\n    return a + b\'\n'
        "requests = [make_request(text, Examination(tests=('assert add(1, 2) == 3',), timeout=2.0))] * 6\n"
        "brokers = broker_pool(os.getpid())\nbrokers.examine(requests, 'required')\nprint(*brokers.workers.pids())"
    )
    line = [sys.executable, "-c", code]
    done = subprocess.run(line, capture_output=True, text=True, check=True, env={**os.environ, "TMPDIR": str(tmp_path)})
    assert not list(tmp_path.iterdir())
    brokers = done.stdout.split()
    assert brokers
    assert not any(Path(f"/proc/{pid}").exists() for pid in brokers)
    marks = [Path(f"/sys/fs/cgroup/{kind}").rglob(f"scorl-{pid}") for kind in ("pids", "memory") for pid in brokers]
    assert not any(list(mark) for mark in marks)


@full
def test_the_sandbox_holds_what_doctor_tries():
    assert all(sandbox_test.try_forbidden_acts().values())


@full
def test_the_environment_and_the_tests_are_hidden(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "SECRET-CANARY")
    text = (
        "import os\ndef leak():\n    blob = repr(dict(os.environ))\n"
        "    for root, _, names in os.walk('/tmp'):\n        blob += repr(names)\n"
        "    for place in ('/proc/1/environ', '/proc/self/environ'):\n"
        "        blob += open(place).read() if os.path.exists(place) else ''\n"
        "    return 'CANARY' in blob, sorted(os.listdir('/'))"
    )
    seen = ["dev", "lib", "lib64", "python", "tmp", "usr"]
    test = f"leaked, names = leak()\nassert not leaked\nassert set(names) <= set({seen})"
    broker = pool.make_broker()  # one that starts with the secret around
    try:
        assert pool.examine(broker, make_request(text, Examination((test,)))) == ("passed", "")
    finally:
        broker.close()


def test_less_than_the_full_sandbox_is_refused_or_announced():
    code = (
        "from scorl.verifiers.program import *\nfrom scorl.errors import UserError\nimport sys\n"
        "exam = Examination(tests=('assert add(1, 2) == 3',), timeout=2.0)\n"
        "try:\n    verify('def add(a, b): return a + b', exam)\n"
        "except UserError as error:\n    print('refused', error)\n"
        "for sign in '+-':\n"
        "    print(verify(f'def add(a, b):\\n    return a {sign} b', exam, 'preferred').outcome)\n"
        "print(verify('import sys\\nsys.exit(0)', exam, 'preferred').outcome)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, "PATH": "/nowhere"}
    )
    first, *words = run.stdout.splitlines()
    assert first.startswith("refused programs can only be run in a reduced sandbox here: bubblewrap is not installed")
    assert words == ["passed", "failed", "error"]
    assert run.stderr.count("REDUCED") == 1


def fake_worker(body, start_seconds=60.0):
    """A worker that runs `body` on each line, and has written its process id into ./starts before it is ready."""
    code = (
        "import os, sys, time\nprint(os.getpid(), file=open('starts', 'a'))\nprint('{}', flush=True)\n"
        f"for line in sys.stdin:\n    {body}"
    )
    return LineWorker([sys.executable, "-c", code], start_seconds, None, quiet=True)


@pytest.fixture
def starts(tmp_path, monkeypatch):
    """The file in which fake workers count their starts."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "starts"


def test_a_broken_sandbox_is_an_error_and_no_verdict(starts):
    broker = fake_worker('print(\'{"broken": "no"}\', flush=True)')
    with pytest.raises(SandboxError, match="3 times in a row: no"):
        pool.examine(broker, {"seconds": 1.0})
    assert len(starts.read_text().split()) == 3
    assert broker.process is None


def test_a_worker_that_is_late_is_killed_and_started_again(starts):
    worker = fake_worker("time.sleep(float(line)); print('awake', flush=True)")
    with pytest.raises(LateError):
        worker.ask("600", 0.2)
    assert worker.process is None  # killed and waited for: no zombie
    assert worker.ask("0", 60.0) == "awake\n"
    first, second = map(int, starts.read_text().split())
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)
    worker.close()
    with pytest.raises(ProcessLookupError):
        os.kill(second, 0)


def test_a_worker_that_died_idle_is_started_again(starts):
    worker = fake_worker("print('here', flush=True)")
    assert worker.ask("", 60.0) == "here\n"
    worker.process.kill()
    worker.process.wait()
    assert worker.ask("", 60.0) == "here\n"
    with pytest.raises(EndedError):
        fake_worker("os._exit(1)").ask("", 60.0)
    worker.close()


def test_a_worker_that_does_not_start_says_how_to_see_why(starts):
    with pytest.raises(RuntimeError, match=r"a worker process does not start; try: .*python.* -c 'import os"):
        LineWorker([sys.executable, "-c", "import os; os._exit(1)"], 60.0, None, quiet=True).ask("", 60.0)


def test_the_sandbox_imports_nothing_of_the_package_but_errors_threads_and_its_end():
    names = set()
    for path in Path(pool.__file__).parent.glob("*.py"):
        names |= set(re.findall(r"^\s*(?:from|import) scorl\.?(\w*)", path.read_text(), re.MULTILINE))
    assert names == {"errors", "parent", "sandbox", "threads"}


def test_values_come_back_as_plain_data():
    class Loud(list):
        def __eq__(self, other):
            return True

        def __iter__(self):
            return iter([9])

    def refuse(value):
        raise WireError("a handle")

    for value in (
        None,
        ...,
        -1,
        255,
        10**6000,
        float("-inf"),
        -0.0,
        "\ud800é",
        b"x",
        (1, [2]),
        {1: {2}},
        range(3),
        int,
    ):
        back = decode(encode(value, refuse), refuse)
        assert back == value
        assert type(back) is type(value)
    assert type(decode(encode(Loud([1]), refuse), refuse)) is list
    assert decode(encode(Loud([1]), refuse), refuse) == [1]
    handle = decode(encode(object(), lambda value: Handle(True, 3, "object", "A")), lambda one: one.number)
    assert handle == 3


@pytest.mark.parametrize("data", [b"", b"?", b"l\x00\x00\x00\x05N",
                                  b"i\xff\xff\xff\xff", b"NN", b"s\x00\x00\x00\x01\xff",
                                  b"S\x00\x00\x00\x01l\x00\x00\x00\x00", b"l\x00\x00\x00\x01" * 200 + b"N",
                                  b"n\x00\x00\x00\x04eval"])  # fmt: skip
def test_forged_bytes_are_no_values(data):
    with pytest.raises(WireError):
        decode(data, lambda handle: handle)


def test_what_is_too_deep_or_too_large_is_not_sent():
    loop = []
    loop.append(loop)
    with pytest.raises(WireError, match="deep"):
        encode(loop, lambda value: None)
    with pytest.raises(WireError, match="large"):
        encode(["x" * 1000] * 1000, lambda value: None, longest=10_000)


def test_the_program_is_the_one_that_the_tests_name():
    def read(*blocks, **settings):
        answer = "\nor:\n".join(f"```python\n{block}\n```" for block in blocks)
        return program.read_program(answer, Examination(**settings))

    add, other = ADD.strip(), "def add_all(numbers):\n    return sum(numbers)"
    assert read(add, other, tests=TESTS) == add
    assert read(add, other, tests=TESTS, entry_point="add_all") == other
    assert read(add, other, tests=("assert sorted(x.add_all(1)) == [add(1, 2)]",)) == add
    assert read(other, add, tests=("assert add_all([1]) == add(0, 1)",)) == f"{other}\n\n{add}"
    assert read("def abs(x):\n    return -x", other, tests=("assert abs(1) == -1",)) == "def abs(x):\n    return -x"
    assert read(add, other, tests=("assert minus(3, 1) == 2",)) == other
    assert read("print(int(input()) * 2)", other, pairs=(("4", "8"),)) == "print(int(input()) * 2)"


@full
def test_equal_programs_are_judged_once_and_alike():
    exam = Examination(tests=TESTS, timeout=2.0)
    verdict = verify(f"```python\n{ADD}\n```", exam)
    assert (verdict.reward, verdict.outcome, verdict.answer) == (1.0, "passed", ADD.strip())
    assert verify("x" * (program.LENGTH + 1) + " = 1", exam).outcome == "unparsable"


@full
def test_the_hostile_set():
    file = find_data("cases/hostile.jsonl")
    cases = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    cases = [case for case in cases if case["category"] != "resource_abuse"]  # slow; benchmarks/sandbox.py hostile
    words = {"passed": "pass", "failed": "fail", "memory": "oom", "forbidden": "error"}
    requests = [
        make_request(
            case["code"], Examination(tuple(case["tests"]), entry_point=case["entry_point"], stdin=case["stdin"] or "")
        )
        for case in cases
    ]
    wrong = [
        (case["id"], answer)
        for case, answer in zip(cases, examine(requests), strict=True)
        if words.get(answer.outcome, answer.outcome) not in case["acceptable_verdicts"]
    ]
    assert not wrong
