"""Symbolic comparisons in worker processes, each of which may hang and is then killed.

A worker (symbolic.py) ends with its parent, however busy it is.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from scorl.distributed.ranks import local_world_size
from scorl.errors import UserError
from scorl.sandbox import EndedError, LateError
from scorl.sandbox.workers import LineWorker, WorkerPool, count_cores

__all__ = ["Check", "CheckResult", "compare", "compare_all", "make_worker", "worker_pool"]

PROGRAM = Path(__file__).with_name("symbolic.py")
START_SECONDS = 300.0
"""An own limit for starting an interpreter and importing math-verify: 1.5 s on an idle machine, 100 on a full one."""


class Check(NamedTuple):
    """One comparison: gold answer and answer as light normalisation spells them, and as they were written."""

    gold: str
    answer: str
    written_gold: str
    written_answer: str


class CheckResult(NamedTuple):
    """What came of a check: equal or not, and else why it could not be said."""

    equal: bool
    problem: str = ""
    """Empty, `unparsable`, `timeout` or `error`."""
    reason: str = ""


def make_worker() -> LineWorker:
    """A worker, not started yet."""
    return LineWorker(
        [sys.executable, "-P", str(PROGRAM), str(os.getpid())], START_SECONDS, environment=None, quiet=True
    )


def compare(worker: LineWorker, check: Check, seconds: float) -> CheckResult:
    """Compares within a wall-time limit."""
    pairs = ((check.gold, check.answer), (check.written_gold, check.written_answer))
    try:
        return read_reply(json.loads(worker.ask_again(json.dumps([pairs, seconds]), seconds)))
    except LateError:
        return CheckResult(False, "timeout", f"not compared within {seconds:g} s")
    except EndedError:
        return CheckResult(False, "error", "the comparison ended its worker process twice")


def read_reply(reply: list[bool] | list[str]) -> CheckResult:
    """A worker's reply as a result."""
    if len(reply) == 1:
        return CheckResult(False, "error", str(reply[0]))
    equal, readable = reply
    if not readable:
        return CheckResult(False, "unparsable", "the final answer does not read as mathematics")
    return CheckResult(bool(equal))


def compare_all(checks: Sequence[Check], seconds: float) -> list[CheckResult]:
    """What comes of each check, in order; each has `seconds` of wall time.

    Raises:
        UserError: math-verify is not installed.
    """
    return worker_pool(os.getpid()).map(partial(compare, seconds=seconds), checks) if checks else []


@cache
def worker_pool(process: int) -> WorkerPool:
    """The workers of this process, one for each of its cores; a forked child passes another id and gets its own.

    Raises:
        UserError: math-verify is not installed.
    """
    if find_spec("math_verify") is None:
        raise UserError("judging this answer needs math-verify, which is not installed: pip install 'scorl[math]'")
    return WorkerPool(make_worker, count_cores(local_world_size()))
