"""Brokers, one per core: examinations go to whichever is idle, and a broken sandbox is tried again.

That the sandbox broke is never a verdict: it says nothing about the program. It is retried with a new broker,
then it is an error.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from typing import Any

from scorl.errors import UserError
from scorl.sandbox import EndedError, Judgement, LateError, Requirement, SandboxError
from scorl.sandbox.workers import LineWorker, WorkerPool

__all__ = ["BrokerPool", "examine", "make_broker", "measure_slowness"]

MEMORY, PROCESSES = 1 << 30, 64
"""Bytes, and processes and threads, of one program."""
TRIES = 3
SLACK = 130.0
"""Seconds beyond an examination's own limits after which its broker is given up: two sandboxes may have to start."""
REFERENCE = 0.0016
"""Processor seconds of `workload` on the machine that a `timeout` of one second is meant for."""
KEPT = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "LANG", "TMPDIR")
"""What a broker keeps of the environment; everything else could be a secret."""


class BrokerPool:
    """So many brokers, each of which examines one program at a time."""

    def __init__(self, size: int) -> None:
        self.workers = WorkerPool(make_broker, size)

    @cached_property
    def level(self) -> tuple[str, str]:
        """`full`, `reduced` or (on other systems than Linux) `none`, and what that means here."""
        if sys.platform != "linux":
            return "none", "programs are run on Linux alone"
        return self.workers.map(lambda broker, _: start_and_read_level(broker), [None])[0]

    def examine(self, requests: Sequence[Mapping[str, Any]], sandbox: Requirement) -> list[Judgement]:
        """What comes of each program, in order; a request is what `broker.Broker.examine` takes.

        Raises:
            UserError: the full sandbox is required and not to be had.
            SandboxError: the sandbox broke several times in a row.
        """
        if not requests:
            return []
        name, reason = self.level
        if name == "none":
            raise UserError(reason)
        if name != "full" and sandbox == "required":
            raise UserError(
                f"programs can only be run in a reduced sandbox here: {reason}. Allow it with sandbox=preferred where "
                "you trust the programs (docs/code.md)"
            )
        if name != "full":
            warn_once(reason)
        return self.workers.map(examine, requests)


def make_broker() -> LineWorker:
    """A broker, not started yet."""
    environment = {name: os.environ[name] for name in KEPT if name in os.environ}
    command = [sys.executable, "-P", "-m", "scorl.sandbox.broker", str(MEMORY), str(PROCESSES)]
    return LineWorker(command, SLACK, environment, quiet=False)


def start_and_read_level(broker: LineWorker) -> tuple[str, str]:
    """How well a broker can hold programs: its first line."""
    broker.ready()
    name, reason = json.loads(broker.greeting)["level"]
    return name, reason


def examine(broker: LineWorker, request: Mapping[str, Any]) -> Judgement:
    """What comes of one program.

    Raises:
        SandboxError: the sandbox broke every time.
    """
    seconds = (2 * request["seconds"] + 1) * len(request.get("pairs", "1")) + SLACK
    for _ in range(TRIES):
        try:
            answer = json.loads(broker.ask(json.dumps(request), seconds))
        except (LateError, EndedError):
            answer = {"broken": "its broker ended"}
        if "outcome" in answer:
            return Judgement(answer["outcome"], answer["reason"])
        ended = broker.process is None
        broker.close()
    # At the reduced level a program can kill the processes of its user; then it is the program's doing, not a defect.
    if ended and json.loads(broker.greeting)["level"][0] == "reduced":
        return Judgement("forbidden", "ended the process that watches it, which the reduced sandbox does not prevent")
    raise SandboxError(f"the sandbox broke {TRIES} times in a row: {answer['broken']}")


@cache
def warn_once(reason: str) -> None:
    """Says on stderr, once a process, that programs are not held well."""
    print(f"warning: programs run in the REDUCED sandbox: {reason}", file=sys.stderr)


@cache
def measure_slowness() -> float:
    """How much slower this machine runs Python than the one that time limits are meant for (above 1: slower)."""
    return min(max(min(workload() for _ in range(100)) / REFERENCE, 0.25), 10.0)


def workload() -> float:
    """Processor seconds that a fixed piece of work takes."""
    begun = time.thread_time()
    numbers, total = {}, 0
    for index in range(10_000):
        total = (total * 31 + index) % 1_000_003
        numbers[total % 997] = [index, total]
    return time.thread_time() - begun + 0 * len(numbers)
