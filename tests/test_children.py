"""What scorl starts ends with it, also where it is killed by SIGKILL and can tell nobody."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.processes import cpu_seconds, descendants, is_running, survivors
from support.worlds import save_model

from scorl.sandbox.bubblewrap import detect_level

SECONDS = 5.0
"""Within which all must be gone."""


@pytest.fixture
def start():
    """Starts a command, and leaves nothing of it if the test fails."""
    started = []

    def start(*command, **variables):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **{name: str(value) for name, value in variables.items()}}
        process = subprocess.Popen([sys.executable, *map(str, command)], env=environment, stdout=subprocess.PIPE)
        started.append(process)
        return process

    yield start
    for process in started:
        for pid in [process.pid, *descendants(process.pid)]:
            if is_running(pid):
                os.kill(pid, signal.SIGKILL)
        process.communicate()


def kill(parent):
    """What a process had started and left when it was killed: the process ids, and those that still run."""
    family = descendants(parent.pid)
    parent.kill()
    parent.wait()
    left = survivors(family, SECONDS)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    return family, left


def wait_for(happens, process):
    give_up = time.monotonic() + 120
    while not happens():
        assert process.poll() is None
        assert time.monotonic() < give_up
        time.sleep(0.02)


REWARD = """
import os, time
def reward(prompts, completions, **columns):
    time.sleep(float(os.environ.get("SLOW", "0")))
    return [0.5] * len(completions)
"""
RECIPE = """
model: {{path: "{folder}"}}
task: {{name: files, path: "{data}", test_path: "{data}", verifier: "{folder}/reward.py:reward"}}
engine: {{max_tokens: 3}}
stages:
  - {{objective: score_stage_one, steps: 2, problems: 2, samples: 2}}
  - {{objective: score_stage_two, steps: 2, problems: 2, samples: 2}}
evaluation: {{problems: 2}}
"""


@pytest.fixture
def recipe(tmp_path):
    """A recipe of few steps, which take as long as the variable SLOW says."""
    save_model(tmp_path)
    data = tmp_path / "data.jsonl"
    data.write_text('{"problem": "say a", "answer": "a"}\n{"problem": "say b", "answer": "b"}\n')
    (tmp_path / "reward.py").write_text(REWARD)
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(folder=tmp_path, data=data))
    return tmp_path / "recipe.yaml"


@pytest.mark.parametrize("command", ["train", "compare"])
def test_a_killed_launcher_leaves_nobody_who_writes_into_the_run(start, recipe, tmp_path, command):
    out = tmp_path / "out"
    train = ["train", recipe, "--out", out, "--resume", "auto"]
    compare = ["compare", recipe, "--methods", "score", "--seeds", "1", "--out", out]
    arguments, run = (train, out) if command == "train" else (compare, out / "score" / "seed-0")
    ranks = ["launcher.name=torchrun", "launcher.workers=2"] if command == "train" else []
    launcher = start("-m", "scorl", *arguments[:2], *ranks, *arguments[2:], SLOW=2)
    wait_for((run / "evaluation.json").exists, launcher)
    family, left = kill(launcher)
    assert len(family) >= (2 if command == "train" else 1)
    assert not left
    before = list_files(run)
    time.sleep(0.5)
    assert list_files(run) == before
    again = start("-m", "scorl", *arguments)
    assert again.wait(120) == 0
    assert len((run / "steps.jsonl").read_text().splitlines()) == 4


def list_files(folder):
    """Every file with its size and the time of its last change."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


EXAMINE = """
import os, sys, time
from scorl.sandbox import pool
from scorl.sandbox.workers import LineWorker
from scorl.verifiers.program import Examination, broker_pool, make_request

BROKER = '''
from scorl.sandbox import broker
from scorl.sandbox.bubblewrap import Level, detect_level
broker.detect_level = lambda: {level}
broker.main()
'''
command = [sys.executable, "-c", BROKER, str(pool.MEMORY), str(pool.PROCESSES)]
pool.make_broker = lambda: LineWorker(command, 60.0, None, quiet=False)
pair = Examination(pairs=(("", ""),), timeout=100.0)
test = Examination(tests=("assert f() == 1",), timeout=100.0)
print(broker_pool(os.getpid()).examine([make_request({text!r}, {kind})], "preferred")[0].outcome, flush=True)
time.sleep(600)
"""
LEAVING = """
import os
for leave in (True, False):
    if not os.fork():
        os.setsid(), os.close(1)
        if leave and os.fork():
            os._exit(0)
        while True: pass
"""
BUSY = LEAVING + "while True: pass"
LEVELS = {
    "full": "detect_level()",
    "groups": "Level('reduced', '', None, True)",
    "nothing": "Level('reduced', '', None, False)",
}


@pytest.mark.parametrize("kind", ["test", "pair"])
@pytest.mark.parametrize("level", LEVELS)
def test_a_broker_whose_parent_is_killed_leaves_no_program_group_or_folder(start, tmp_path, level, kind):
    if not detect_level().full and level != "nothing":
        pytest.skip(f"no full sandbox here: {detect_level().reason}")
    parent = start("-c", EXAMINE.format(level=LEVELS[level], kind=kind, text=BUSY), TMPDIR=tmp_path)

    def busy():
        brokers = children(parent)
        return sum(cpu_seconds(pid) > 0.1 for broker in brokers for pid in descendants(broker)) >= 3

    wait_for(busy, parent)
    brokers = children(parent)
    assert (level == "full") != bool(list(tmp_path.glob("scorl-program-*")))
    family, left = kill(parent)
    assert set(brokers) < set(family)
    assert not left
    assert not list(tmp_path.iterdir())
    assert not [group for pid in brokers for group in Path("/sys/fs/cgroup").glob(f"**/scorl-{pid}")]


@pytest.mark.parametrize("level", LEVELS)
def test_nothing_that_a_program_started_outlives_it(start, level):
    if not detect_level().full and level != "nothing":
        pytest.skip(f"no full sandbox here: {detect_level().reason}")
    parent = start("-c", EXAMINE.format(level=LEVELS[level], kind="pair", text=LEAVING))
    assert parent.stdout.readline() == b"passed\n"
    assert descendants(parent.pid) == children(parent)


def children(process):
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task").glob("*/children") for pid in pid.read_text().split()]


COMPARE = """
from scorl.verifiers.workers import Check, compare, make_worker
worker = make_worker()
worker.ready()
print("ready", flush=True)
compare(worker, Check("1", "9^{9^{9}}", "1", "9^{9^{9}}"), 600.0)
"""


def test_a_grading_worker_whose_parent_is_killed_ends_whatever_it_computes(start):
    pytest.importorskip("math_verify")
    parent = start("-c", COMPARE)
    assert parent.stdout.readline() == b"ready\n"
    (worker,) = descendants(parent.pid)
    before = cpu_seconds(worker)
    wait_for(lambda: cpu_seconds(worker) > before + 0.3, parent)
    family, left = kill(parent)
    assert family == [worker]
    assert not left


PROGRAMS = """
from scorl.trajectory import Problem
from scorl.verifiers import program
def judge(body, seconds, count):
    test = program.Examination(("assert f() == 1",), entry_point="f", timeout=seconds)
    program.judge([(Problem("p", (), test), f"```python\\ndef f():\\n    {body}\\n```")] * count, sandbox="preferred")
judge("return 1", 1.0, 1)
print("ready", flush=True)
judge("while True: pass", 100.0, 20)
"""
COMPARISONS = """
import os
from functools import partial
from scorl.verifiers.workers import Check, compare, worker_pool
pool, endless = worker_pool(os.getpid()), Check("1", "9^{9^{9}}", "1", "9^{9^{9}}")
pool.map(lambda worker, job: worker.ready(), [None])
print("ready", flush=True)
pool.map(partial(compare, seconds=100.0), [endless] * 20)
"""


@pytest.mark.parametrize("judging", [PROGRAMS, COMPARISONS], ids=["programs", "comparisons"])
def test_an_interrupt_ends_a_process_at_once_whatever_it_judges(start, judging):
    if judging is COMPARISONS:
        pytest.importorskip("math_verify")
    parent = start("-c", judging)
    assert parent.stdout.readline() == b"ready\n"
    time.sleep(1.0)
    family, began = descendants(parent.pid), time.monotonic()
    parent.send_signal(signal.SIGINT)
    parent.wait(60)
    assert time.monotonic() - began < 3
    assert family
    assert not survivors(family, SECONDS)


WATCHED = """
import os, sys, time
from scorl import parent
sys.platform, parent.PAUSE = {platform!r}, 0.1
print(os.getpid(), flush=True)
parent.end_with_parent(os.getppid() + {wrong})
print("here", flush=True)
time.sleep(600)
"""
STARTER = "import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', sys.argv[1]]).wait()"


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_the_end_of_the_parent_is_noticed_on_every_system(start, platform):
    parent = start("-c", STARTER, WATCHED.format(platform=platform, wrong=0))
    assert parent.stdout.readline()
    assert parent.stdout.readline() == b"here\n"
    family, left = kill(parent)
    assert len(family) == 1
    assert not left


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_a_parent_that_ended_before_anybody_looked_is_noticed(start, platform):
    child = start("-c", WATCHED.format(platform=platform, wrong=1))
    assert child.stdout.readline()
    assert child.wait(60) == -signal.SIGKILL
    assert not child.stdout.read()
