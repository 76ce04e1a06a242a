"""What a run leaves open, and how many files it leaves, does not grow with its steps; make test-long makes 10,000."""

from dataclasses import replace

import long_run
import pytest
from long_run import KEPT, Look, find_growth, find_slowdown, measure
from support.worlds import letters


def test_memory_handles_threads_and_files_stay_as_many_while_workers_die(tmp_path, monkeypatch):
    pytest.importorskip("math_verify")
    killed, kill = [], long_run.os.kill
    monkeypatch.setattr(long_run.os, "kill", lambda pid, signal: killed.append(pid) or kill(pid, signal))
    looks = measure(tmp_path, steps=2 * KEPT, trouble=100)
    assert find_growth(looks) == []
    assert find_slowdown(looks, 3.0) == []  # the processor's time too is longer on a full machine
    assert looks[-1].largest_worker > 1 << 20
    assert looks[-1].children >= 1
    assert len(list((tmp_path / "run" / "attempts").iterdir())) == KEPT
    assert len({*killed}) >= 2


def test_a_leak_in_memory_and_one_in_the_folder_are_found(tmp_path, monkeypatch):
    leaked, task = [], letters()

    def judge(pairs):
        leaked.append(bytearray(b"x") * (1 << 20))
        (tmp_path / "run" / "leak").write_bytes(bytes(len(leaked) << 16))
        return task.judge(pairs)

    monkeypatch.setattr(long_run, "letters", lambda: replace(task, judge=judge))
    said = find_growth(measure(tmp_path, steps=20))
    assert [line.split(" gr")[0] for line in said if not line.startswith("files")] == ["size", "memory"]


def looks_with(**growth: float) -> list[Look]:
    """Those of 10,000 steps, in which a step adds so much to something."""
    flat = Look(0, 0.02, 410 << 20, 9, 3, 89, 1 << 20, 2, 70 << 20)

    def at(step: int) -> Look:
        more = {name: type(getattr(flat, name))(step * each) for name, each in growth.items()}
        return replace(flat, step=step, **{name: getattr(flat, name) + added for name, added in more.items()})

    return [at(step) for step in range(1000, 10_001, 1000)]


@pytest.mark.parametrize(
    ("growth", "said"),
    [
        ({}, []),
        ({"memory": 2400}, []),
        ({"memory": 5500}, ["memory grows by 5,500 bytes a step"]),
        ({"largest_worker": 5500}, ["largest_worker grows by 5,500 bytes a step"]),
        ({"size": 100}, ["size grew from 1,548,576 to 2,048,576"]),
        ({"children": 0.001}, ["children grew from 7 to 12"]),
        ({"handles": 0.001}, ["handles grew from 14 to 19"]),
        ({"seconds": 2e-6}, []),
    ],
)
def test_growth_is_said(growth, said):
    looks = looks_with(**growth)
    assert find_growth(looks) == said
    assert len(find_slowdown(looks, 1.3)) == ("seconds" in growth)
