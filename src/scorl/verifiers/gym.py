"""The verifier for reasoning-gym: the data set's own score of an answer, made in a worker that may be killed.

The answer is what stands in the last `<answer>...</answer>`, else the final answer as mathematics has it
(extract_answer.py). Scores are from 0 to 1, and may lie between.
"""

from __future__ import annotations

import base64
import json
import os
import pickle
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

from scorl.distributed.ranks import local_world_size
from scorl.sandbox import EndedError, LateError
from scorl.sandbox.bubblewrap import detect_level
from scorl.sandbox.workers import LineWorker, WorkerPool, count_cores
from scorl.trajectory import Problem, Verdict
from scorl.verifiers.extract_answer import extract_answer
from scorl.verifiers.thoughts import last_answer, remove_thoughts

__all__ = ["GymEntry", "judge"]

PROGRAM = Path(__file__).with_name("gym_worker.py")
START_SECONDS = 300.0
"""For an interpreter to start, import reasoning-gym, and make the data set."""
SECONDS = 5.0
"""Wall time of one score."""
LENGTH = 20_000
"""The longest answer that is scored."""
SCRATCH = ("--tmpfs", "/dev/shm", "--setenv", "TMPDIR", "/dev/shm")  # matplotlib, which is imported, wants a folder
CONFINED = ("--ro-bind", "/", "/", "--dev", "/dev", *SCRATCH, "--unshare-net", "--unshare-ipc", "--die-with-parent")
"""Where there is bubblewrap, a worker writes no file of the machine and reaches no network."""


@dataclass(frozen=True)
class GymEntry:
    """What reasoning-gym scores an answer by."""

    answer: str | None
    """The data set's own; None: there are many right ones."""
    entry: Mapping[str, Any] = field(repr=False)


def judge(pairs: Sequence[tuple[Problem, str]], dataset: str, config: Mapping[str, Any]) -> list[Verdict]:
    """The verdicts on responses, in order; `Problem.answer` is a `GymEntry` of this data set."""
    answers = [read_answer(response) for _, response in pairs]
    asked = [
        (problem.answer, answer)
        for (problem, _), answer in zip(pairs, answers, strict=True)
        if answer is not None and len(answer) <= LENGTH
    ]
    pool = worker_pool(os.getpid(), dataset, json.dumps(config)) if asked else None
    scored = iter(pool.map(score, asked) if pool else ())
    return [
        next(scored)
        if answer is not None and len(answer) <= LENGTH
        else Verdict(0.0, "unparsable", "no final answer" if answer is None else "the answer is too long")
        for answer in answers
    ]


def read_answer(response: str) -> str | None:
    """The answer of a response; None: there is none."""
    marked = last_answer(remove_thoughts(response))
    return extract_answer(response) if marked is None else marked.strip()


def score(worker: LineWorker, asked: tuple[GymEntry, str]) -> Verdict:
    """The verdict on one answer."""
    gold, answer = asked
    try:
        line = base64.b64encode(pickle.dumps((dict(gold.entry), answer))).decode()
        reply = json.loads(worker.ask_again(line, SECONDS))
    except LateError:
        return Verdict(0.0, "timeout", f"not scored within {SECONDS:g} s", answer)
    except (EndedError, ValueError):
        return Verdict(0.0, "error", "the answer ended its scorer twice", answer)
    if isinstance(reply, str):
        return Verdict(0.0, "error", reply, answer)
    return Verdict(float(reply), "correct" if reply >= 0.5 else "incorrect", "", answer)


@cache
def worker_pool(process: int, dataset: str, config: str) -> WorkerPool:
    """The workers of this process for a data set, one for each of its cores."""
    level = detect_level()
    parent = 0 if level.bubblewrap else process
    command = [sys.executable, "-P", str(PROGRAM), str(parent), dataset, config]
    if level.bubblewrap:
        command = [level.bubblewrap, *CONFINED, "--", *command]
    make = partial(LineWorker, command, START_SECONDS, environment=None, quiet=True)
    return WorkerPool(make, count_cores(local_world_size()))
