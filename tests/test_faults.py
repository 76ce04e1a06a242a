"""A run that meets a fault at any of its file operations resumes to the same bits; make test-faults tries each one."""

import os
import subprocess
import sys
from pathlib import Path

import faults
import pytest


@pytest.mark.timeout(1800)  # many runs, where others are at work too
def test_faults_between_file_operations_lose_nothing():
    """In a process of its own, which forks before torch has threads."""
    tests = Path(__file__).parent
    command = [sys.executable, tests / "faults.py", "--cases", "1", "--seed", "0"]
    path = os.pathsep.join([str(tests), *sys.path])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 wrong" in done.stdout


def test_a_run_that_ignores_signals_is_noticed():
    for name in ("stop", "stop twice"):
        assert faults.is_allowed(name, 0, 3)
        assert not faults.is_allowed(name, 0, 100)
        assert faults.is_allowed(name, faults.INTERRUPTED, 100)
