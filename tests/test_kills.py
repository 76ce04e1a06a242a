"""A short run of kills.py, and what that harness must notice or survive; make test-kills makes a long one."""

import json
import os
import random
import subprocess
import sys

import kills
import pytest
from kills import FORKS, Kind, read_run

TINY = {
    "task": {"name": "countdown"},
    "engine": {"temperature": 1.0, "max_tokens": 8},
    "evaluation": {"problems": 4, "eval_steps": 1},
    "checkpoint": {"save_steps": 1},
    "stages": [
        {"objective": name, "steps": 1, "problems": 2, "samples": 2} for name in ("score_stage_one", "reinforce")
    ],
}


@pytest.mark.timeout(1800)  # processes that import torch, where others are at work too
@pytest.mark.parametrize(
    ("name", "settings", "aims", "count"),
    [
        ("alone", {}, ["first evaluation", "sampling", "learning", "saving", "boundary"], 3),
        ("ranks", {"launcher": kills.RANKS}, ["learning"], 1),  # which is met for sure
    ],
)
def test_killed_runs_end_equal(tmp_path, monkeypatch, name, settings, aims, count):
    monkeypatch.setitem(kills.KINDS, name, TINY | settings)
    find_aims = Kind.find_aims
    monkeypatch.setattr(Kind, "find_aims", lambda *of: [aim for aim in find_aims(*of) if aim in aims] or ["learning"])
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (first := FORKS.Process(target=int)).start()
    first.join()
    kind, told = Kind(name, tmp_path / name), []
    kind.measure()
    for seed in range(10):
        if kind.kills.total() < count and not kind.failed:
            kind.disturb(seed, lambda what: told.append(what) or kind.kills.total() >= count)
    assert kind.failed == []
    assert kind.kills.total() == len(told) == count
    assert {*kind.kills} <= {*kills.PHASES}


@pytest.fixture
def run(tmp_path):
    """The folder of a run of one step, as `read_run` takes it."""
    for name in ("checkpoints/step-1/adapter", "checkpoints/step-1/trainer"):
        (tmp_path / "run" / name).mkdir(parents=True)
        (tmp_path / "run" / name / "file").write_text("whole")
    (tmp_path / "run" / "steps.jsonl").write_text('{"step": 0, "seconds": 1}\n')
    (tmp_path / "run" / "evaluation.json").write_text("{}")
    (tmp_path / "run" / "checkpoints" / "best").symlink_to("step-1")
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("change", "seen"),
    [
        (lambda run: (run / "steps.jsonl").write_text('{"step": 0, "seconds": 2}\n'), []),
        (lambda run: (run / "checkpoints/step-1/adapter/file").write_text("x"), ["checkpoints/step-1/adapter/file"]),
        (lambda run: (run / "checkpoints/step-1/trainer/file").write_text("x"), ["checkpoints/step-1/trainer/file"]),
        (lambda run: (run / "checkpoints/best").unlink(), ["best", "checkpoints/best (is in one alone)"]),
        (lambda run: (run / ".7.draft.x").touch(), [".7.draft.x (is in one alone)"]),
    ],
)
def test_what_differs_of_two_runs(run, change, seen):
    before = read_run(run, 1)
    change(run)
    assert kills.find_differences(before, read_run(run, 1)) == seen


@pytest.mark.parametrize("harm", [os.unlink, lambda path: path.write_text('{"step": 0, "sec')])
def test_lost_and_torn_lines_are_a_failed_run_of_the_report(run, monkeypatch, harm):
    kind = Kind("alone", run.parent)
    monkeypatch.setitem(kills.KINDS, "alone", {"stages": [{"objective": "reinforce", "steps": 1}]})
    monkeypatch.setattr(kills, "start", lambda recipe, folder: ENDED)
    monkeypatch.setattr(kills, "finish", lambda process, folder: None)
    monkeypatch.setattr(Kind, "wait_for_moment", lambda *_: [ENDED.pid])
    run.rename(run.parent / "run-0")
    harm(run.parent / "run-0" / "steps.jsonl")
    told = []
    kind.disturb(0, told.append)
    assert [line.partition(":")[0] for line in told] == ["alone"]
    assert "FAILED" in told[0]
    assert "NO (1)" in kind.row()


class Process:
    """One that has ended, or is about to when it is looked at."""

    def __init__(self, pid, alive=False):
        self.pid, self.alive = pid, alive

    def is_alive(self):
        was, self.alive = self.alive, False
        return was

    def join(self, seconds):
        pass


GONE = subprocess.Popen([sys.executable, "-S", "-c", ""])
GONE.wait()
ENDED = Process(GONE.pid)


def test_a_process_that_ends_before_it_is_killed_is_survived():
    assert not kills.kill(ENDED, [GONE.pid], random.Random(0))
    assert kills.kill(Process(GONE.pid, alive=True), [GONE.pid], random.Random(0))


def test_a_phase_that_many_kills_never_met_fails_the_report(tmp_path):
    kind = Kind("both stages", tmp_path)
    kind.kills.update(dict.fromkeys(kills.PHASES, 1) | {"learning": kills.MANY})
    assert kills.find_missed([kind]) == []
    del kind.kills["pruning"]
    assert kills.find_missed([kind]) == ["pruning"]
    kind.kills["learning"] = 1
    assert kills.find_missed([kind]) == []  # by chance


def test_each_kind_says_what_it_has_before_it(tmp_path):
    star, both = (Kind(name, tmp_path) for name in ("star", "both stages"))
    assert both.boundaries == [4]
    assert "collecting" in star.find_aims(tmp_path)
    assert {"sampling", "boundary"}.isdisjoint(star.find_aims(tmp_path))
    assert {"sampled", "pruning", "later evaluation", "boundary"} <= {*both.find_aims(tmp_path)}
    (tmp_path / "steps.jsonl").write_text(json.dumps({}) + "\n" + "\n" * 7)
    (tmp_path / "evaluation.json").touch()
    assert both.find_aims(tmp_path) == ["starting"]
