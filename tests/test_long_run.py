"""What a run leaves open, and how many files it leaves, does not grow with its steps; make test-long makes 10,000."""

import long_run
import pytest
from long_run import KEPT, find_growth, measure


def test_handles_threads_and_files_stay_as_many_while_workers_die(tmp_path, monkeypatch):
    pytest.importorskip("math_verify")
    killed, kill = [], long_run.os.kill
    monkeypatch.setattr(long_run.os, "kill", lambda pid, signal: killed.append(pid) or kill(pid, signal))
    looks = measure(tmp_path, steps=2 * KEPT, trouble=100)
    assert find_growth(looks) == []
    assert len(list((tmp_path / "run" / "attempts").iterdir())) == KEPT
    assert len({*killed}) >= 2
