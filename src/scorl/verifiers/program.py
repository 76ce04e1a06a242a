"""The verifier for programs: does the program in an answer pass the tests?

The program runs in a sandbox and the tests run outside of it (sandbox/, docs/code.md). Whatever an
answer holds gives a verdict; that the sandbox broke gives an error.
"""

from __future__ import annotations

import builtins
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

from scorl.distributed.ranks import local_world_size
from scorl.sandbox import Judgement, Requirement
from scorl.sandbox.pool import BrokerPool, measure_slowness
from scorl.sandbox.workers import count_cores
from scorl.trajectory import Problem, Verdict
from scorl.verifiers.extract_code import extract_program, put_before, remove_comments

__all__ = ["SECONDS", "Examination", "broker_pool", "judge", "make_request", "read_program", "verify"]

SECONDS = 5.0
"""Processor seconds that a program has, on the machine that limits are meant for (`sandbox.pool.REFERENCE`)."""
LENGTH = 100_000
"""The longest program that is run."""
CALLED = re.compile(r"(?<![\w.])([^\W\d]\w*)\s*\(")
"""What is called and is no method."""


@dataclass(frozen=True, slots=True)
class Examination:
    """What a program has to do."""

    tests: tuple[str, ...] = ()
    """Statements of Python with asserts, or a function `check(candidate)`."""
    pairs: tuple[tuple[str, str], ...] = ()
    """In place of tests: what the program reads on stdin, and what it has to print."""
    setup: str = ""
    """Code that the tests need and that is not the program's."""
    entry_point: str | None = None
    """The function or class that is tested; None: whatever the tests name."""
    preamble: str = ""
    """Code that stands before the program, such as the imports of a prompt."""
    opening: str = ""
    """Code that stands before a program that does not define the entry point, and so continues from here."""
    timeout: float = SECONDS
    stdin: str = ""


def verify(response: str, examination: Examination, sandbox: Requirement = "required") -> Verdict:
    """The verdict on one response; see `judge` for many."""
    return judge([(Problem("", (), examination), response)], sandbox)[0]


def judge(pairs: Sequence[tuple[Problem, str]], sandbox: Requirement = "required") -> list[Verdict]:
    """The verdicts on responses, in order; `Problem.answer` is an `Examination`.

    Programs that are the same but for comments and empty lines are run once.

    Raises:
        UserError: the full sandbox is required and not to be had.
        SandboxError: the sandbox broke several times in a row, which says nothing about a program.
    """
    programs = [read_program(response, problem.answer) for problem, response in pairs]
    programs = [program if program is None else remove_comments(program) for program in programs]
    distinct = dict.fromkeys(
        (program, problem.answer)
        for program, (problem, _) in zip(programs, pairs, strict=True)
        if program is not None and len(program) <= LENGTH
    )
    judgements = broker_pool(os.getpid()).examine([make_request(*key) for key in distinct], sandbox) if distinct else []
    judged: dict[tuple[str | None, Examination], Judgement] = dict(zip(distinct, judgements, strict=True))
    return [
        make_verdict(program, judged.get((program, problem.answer)))
        for program, (problem, _) in zip(programs, pairs, strict=True)
    ]


def read_program(response: str, examination: Examination) -> str | None:
    """The program in a response that the examination is about."""
    names = [examination.entry_point] if examination.entry_point else called_names(examination.tests)
    return extract_program(response, *names, prints=bool(examination.pairs))


@lru_cache(1024)
def called_names(tests: tuple[str, ...]) -> frozenset[str]:
    """The functions and classes that tests call; Python's own only if there are no others."""
    called = frozenset(name for text in tests for name in CALLED.findall(text))
    return called - set(dir(builtins)) or called


@cache
def broker_pool(process: int) -> BrokerPool:
    """The brokers of this process, one for each of its cores; a forked child passes another id and gets its own."""
    return BrokerPool(count_cores(local_world_size()))


def make_verdict(program: str | None, judgement: Judgement | None) -> Verdict:
    """The verdict on a program, which has no judgement where it was not run."""
    if program is None:
        return Verdict(0.0, "unparsable", "no program in the answer")
    if judgement is None:
        return Verdict(0.0, "unparsable", f"the program is longer than {LENGTH} characters")
    return Verdict(float(judgement.outcome == "passed"), *judgement, answer=strip_lines(program))


def make_request(program: str, examination: Examination) -> dict[str, Any]:
    """An examination of a program as a broker takes it."""
    request = {
        "program": add_preamble(program, examination),
        "seconds": examination.timeout * measure_slowness(),
    }
    if examination.pairs:
        return {**request, "pairs": examination.pairs}
    return {
        **request,
        "tests": examination.tests,
        "setup": examination.setup,
        "entry_point": examination.entry_point or "",
        "stdin": examination.stdin,
    }


def add_preamble(program: str, examination: Examination) -> str:
    """The program with what stands before it."""
    name = examination.entry_point
    if examination.opening and not re.search(rf"^(?:async\s+)?(?:def|class)\s+{name}\b", program, re.MULTILINE):
        return put_before(examination.opening, program)
    return put_before(examination.preamble, program) if examination.preamble else program


def strip_lines(program: str) -> str:
    """The program as it counts for the answer-change rate: without white space at the ends of lines."""
    return "\n".join(line.rstrip() for line in program.strip("\n").split("\n"))
