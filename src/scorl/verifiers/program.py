"""The verifier for programs: does the program in an answer pass the tests?

The program runs in a sandbox and the tests run outside of it (sandbox/, docs/code.md). Whatever an
answer holds gives a verdict; that the sandbox broke gives an error.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scorl.sandbox.pool import Requirement, examine_all, scale
from scorl.trajectory import Problem, Verdict
from scorl.verifiers.extract_code import program_in, without_comments

__all__ = ["SECONDS", "Examination", "judge", "verify"]

SECONDS = 5.0
"""Processor seconds that a program has, on the machine that limits are meant for (`pool.REFERENCE`)."""
LENGTH = 100_000
"""The longest program that is run."""


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
    """Code that stands before a program that does not define the entry point, and so goes on from here."""
    timeout: float = SECONDS
    stdin: str = ""


def verify(response: str, examination: Examination, sandbox: Requirement = "required") -> Verdict:
    """The verdict on one response; see `judge` for many."""
    return judge([(Problem("", (), examination), response)], sandbox)[0]


def judge(pairs: Sequence[tuple[Problem, str]], sandbox: Requirement = "required") -> list[Verdict]:
    """The verdicts on responses, in order; a task's judge where `Problem.answer` is an `Examination`.

    Programs that are the same but for comments and empty lines are run once.

    Raises:
        UserError: the full sandbox is required and not to be had.
        SandboxError: the sandbox broke several times in a row, which says nothing about a program.
    """
    found = [program_in(response, problem.answer.entry_point) for problem, response in pairs]
    programs = [text if text is None else without_comments(text) for text in found]
    asked = {
        (text, problem.answer): None
        for text, (problem, _) in zip(programs, pairs, strict=True)
        if text is not None and len(text) <= LENGTH
    }
    answers = dict(zip(asked, examine_all([task(*one) for one in asked], sandbox), strict=True))
    verdicts = []
    for text, (problem, _) in zip(programs, pairs, strict=True):
        if text is None:
            verdicts.append(Verdict(0.0, "unparsable", "no program in the answer"))
        elif len(text) > LENGTH:
            verdicts.append(Verdict(0.0, "unparsable", f"the program is longer than {LENGTH} characters"))
        else:
            word, reason = answers[text, problem.answer]
            verdicts.append(Verdict(float(word == "passed"), word, reason, shown(text)))
    return verdicts


def task(text: str, examination: Examination) -> dict[str, Any]:
    """An examination of a program as the broker takes it."""
    common = {"program": whole(text, examination), "seconds": examination.timeout * scale()}
    if examination.pairs:
        return {**common, "pairs": examination.pairs}
    return {
        **common,
        "tests": examination.tests,
        "setup": examination.setup,
        "entry_point": examination.entry_point or "",
        "stdin": examination.stdin,
    }


def whole(text: str, examination: Examination) -> str:
    """The program with what stands before it."""
    name = examination.entry_point
    if examination.opening and not re.search(rf"^(?:async\s+)?(?:def|class)\s+{name}\b", text, re.MULTILINE):
        return f"{examination.opening}\n{text}"
    return f"{examination.preamble}\n{text}" if examination.preamble else text


def shown(text: str) -> str:
    """The program as it counts for the answer-change rate: without white space at the ends of lines."""
    return "\n".join(line.rstrip() for line in text.strip("\n").split("\n"))
