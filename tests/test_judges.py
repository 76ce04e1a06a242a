"""A short run of judges.py, and verifier workers that are killed, stopped or die while somebody waits for them."""

import itertools
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import judges
import pytest
import torch
from support.worlds import letters, tiny_policy

from scorl.learner import Learner
from scorl.objectives import Reinforce
from scorl.sandbox import EndedError
from scorl.sandbox.bubblewrap import detect_level
from scorl.settings import LearnerSettings, Sampling
from scorl.training.loop import train
from scorl.training.stage import Stage
from scorl.trajectory import Problem
from scorl.verifiers import gym, math, workers
from scorl.verifiers.program import broker_pool
from scorl.verifiers.workers import worker_pool


def check(found):
    assert not {name: number for name, number in found.items() if number and name.startswith("WRONG")}


def test_every_answer_gets_a_verdict_and_nothing_is_left(monkeypatch):
    pytest.importorskip("math_verify")
    monkeypatch.setattr(judges, "BATCH", 40)
    for pid in worker_pool(os.getpid()).pids():
        os.kill(pid, signal.SIGKILL)  # other tests' answers may have needed more memory
    judges.try_answers(40, 1)
    before = judges.count_what_is_there()
    found = judges.try_answers(120, 0, kill_every=1)
    check(found)
    assert found["workers killed"] == 3
    assert found["known"] == 6
    assert judges.find_trouble(worker_pool(os.getpid()).pids(), judges.HELD["answers"]) == []
    assert judges.count_what_is_there()["processes"] <= before["processes"] + len(os.sched_getaffinity(0))


def test_a_hack_that_is_paid_is_noticed(monkeypatch):
    pytest.importorskip("math_verify")
    monkeypatch.setattr(math, "SECONDS", 60.0)
    count = len(judges.HACKS)
    known = dict(enumerate([0.0] * count))
    pairs = [judges.make_hack(10**8 + kind, kind)[:2] for kind in range(count)]
    judges.check(pairs, known, found := Counter())
    check(found)
    monkeypatch.setattr(math, "is_echo", lambda *_: False)
    judges.check(pairs, known, found)
    assert found["WRONG: another reward than is known"] > 0


def test_an_answer_that_a_killed_worker_loses_is_noticed(monkeypatch):
    pytest.importorskip("math_verify")
    monkeypatch.setattr(judges, "BATCH", 40)
    judges.try_answers(40, 1)
    lost, compare = [], workers.compare

    def lose(worker, check, seconds):
        return workers.CheckResult(False, "error") if lost and lost.pop() else compare(worker, check, seconds)

    monkeypatch.setattr(judges.os, "kill", lambda pid, signal: lost.append(pid))
    monkeypatch.setattr(workers, "compare", lose)
    assert judges.try_answers(40, 2, kill_every=1)["WRONG: another verdict than without a kill"] == 1


@pytest.mark.skipif(not detect_level().full, reason=f"no full sandbox here: {detect_level().reason}")
def test_every_program_is_judged_and_nothing_is_left():
    judges.try_programs(4, 1)
    before = judges.count_what_is_there()
    check(judges.try_programs(30, 0))
    assert judges.count_what_is_there() == before
    assert judges.find_trouble(broker_pool(os.getpid()).workers.pids(), judges.HELD["programs"]) == []


@pytest.mark.parametrize(
    ("program", "told"),
    [
        ("kept = b'x' * (100 << 20); print(1, flush=True); input()", r"process \d+ has held 1\d\d MB, not 64"),
        ("b'x' * (100 << 20); print(1, flush=True); input()", r"process \d+ has held 1\d\d MB, not 64"),
        ("print(1, flush=True)\nwhile True: pass", r"process \d+ is still at work: .*"),
        ("print(1, flush=True); input()", None),
    ],
)
def test_workers_that_are_stuck_or_too_large_fail_the_report(program, told, monkeypatch, capsys):
    monkeypatch.setattr(judges, "IDLE", 2.0)  # a busy machine gives it a tenth of a second
    worker = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    worker.stdout.readline()
    try:
        assert [re.fullmatch(told, line) is not None for line in judges.find_trouble([worker.pid], 64)] == [
            True
        ] * bool(told)
        before = judges.count_what_is_there()
        assert judges.report("programs", 1, Counter(), 1.0, [worker.pid], before) == (told is None)
    finally:
        worker.kill()
        worker.communicate()


def ask(number, right=True):
    return Problem("p", (), f"{number} + q"), f"\\boxed{{q + {number if right else number + 1}}}"


def test_a_run_goes_on_while_its_workers_are_killed(tmp_path):
    pytest.importorskip("math_verify")
    numbers, killed = itertools.count(10**6), []

    def run(folder, kills):
        def judge(pairs):
            pids = worker_pool(os.getpid()).pids()
            if kills and pids:
                os.kill(pids[0], signal.SIGKILL)
                killed.append(pids[0])
            return math.judge([ask(next(numbers), text.strip() == problem.answer) for problem, text in pairs])

        policy, stage = tiny_policy(folder), Stage(Reinforce(), 2, problems=2, samples=2)
        task = replace(letters(), judge=judge)
        learner = Learner(policy, LearnerSettings(learning_rate=1e-3), total=2)
        list(train(policy, task, [stage], sampling=Sampling(max_tokens=1), learner=learner))
        return policy.model.state_dict()

    calm, disturbed = run(tmp_path / "calm", False), run(tmp_path / "disturbed", True)
    assert killed
    assert all(torch.equal(calm[name], disturbed[name]) for name in calm)


def test_a_stopped_worker_is_replaced(monkeypatch):
    pytest.importorskip("math_verify")
    assert math.judge([ask(-1)])[0].reward == 1
    assert math.judge([ask(-4)])[0].reward == 1
    pids = worker_pool(os.getpid()).pids()
    assert math.judge([ask(-5)])[0].reward == 1
    assert worker_pool(os.getpid()).pids() == pids  # they outlive what they were started for
    monkeypatch.setattr(math, "SECONDS", 0.5)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    assert math.judge([ask(-2)])[0].outcome == "timeout"
    monkeypatch.setattr(math, "SECONDS", 30.0)
    assert math.judge([ask(-3)])[0].reward == 1
    for pid in worker_pool(os.getpid()).pids():
        os.kill(pid, signal.SIGCONT)


class DyingWorker(workers.LineWorker):
    """Ends the first `deaths` times that it is asked."""

    def __init__(self, deaths, reply):
        super().__init__([], 0.0, None, quiet=True)
        self.deaths, self.reply = deaths, reply

    def ask(self, line, seconds):
        self.deaths -= 1
        if self.deaths >= 0:
            raise EndedError
        return self.reply


@pytest.mark.parametrize(("deaths", "outcome"), [(0, "correct"), (1, "correct"), (2, "error")])
def test_a_worker_that_dies_over_an_answer_is_asked_once_more(deaths, outcome):
    result = workers.compare(DyingWorker(deaths, "[true, true]"), workers.Check("1", "1", "1", "1"), 1.0)
    assert (result.problem or "correct") == outcome
    assert gym.score(DyingWorker(deaths, "1.0"), (gym.GymEntry("1", {}), "1")).outcome == outcome


def test_a_worker_without_memory_makes_room_for_a_new_one(monkeypatch):
    worker = workers.make_worker()
    monkeypatch.setattr(worker, "command", [worker.command[0], "-c", SHORT_OF_MEMORY, *worker.command[3:]])
    with pytest.raises(EndedError):
        worker.ask("[[], 1]", 60.0)
    worker.close()


SHORT_OF_MEMORY = """
from scorl.verifiers import symbolic
def compare(pairs):
    pairs = list(pairs)
    if pairs == [("1", "1")]: return True, True
    raise MemoryError
symbolic.compare = compare
symbolic.main()
"""
