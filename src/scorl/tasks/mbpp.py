"""`mbpp`: basic programming problems with three asserts each, and `mbpp-repair`: wrong programs to be repaired.

The published split, by task_id: 1-10 prompt, 11-510 test, 511-600 validation, 601-974 train. As published, a
prompt shows the tests, and the first attempt has three solved problems (2, 3 and 4) before it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from scorl.errors import UserError
from scorl.tasks.coding import ProgramSettings, as_block, read_tests
from scorl.tasks.data import Finite
from scorl.tasks.rows import Row, column, keep_good, text_column
from scorl.tasks.sources import load_hub_rows, read_rows
from scorl.tasks.task import Task
from scorl.trajectory import Message, Problem, user
from scorl.verifiers.program import Examination

__all__ = ["Mbpp", "MbppRepair", "mbpp", "mbpp_repair"]

PROMPT = (
    "Write a Python program for this task: {question}\n\nIt has to pass these tests:\n\n{tests}\n\n"
    "Put the program into one Python code block."
)
SPLITS = {"test": range(11, 511), "validation": range(511, 601), "train": range(601, 975)}
SHOTS = (2, 3, 4)
"""The problems that the published three-shot prompt solves."""


@dataclass(frozen=True, kw_only=True)
class Mbpp(ProgramSettings):
    """Settings of `mbpp`."""

    task: ClassVar[str] = "mbpp"
    fills: ClassVar[tuple[str, ...]] = ("{question}", "{tests}")

    path: str | None = None
    """mbpp.jsonl or sanitized-mbpp.json (`.gz` too); None: google-research-datasets/mbpp from the hub."""
    shots: Literal[0, 1, 2, 3] = 3
    """Solved problems before the one that is asked: three in the paper's training, 0 for zero-shot."""
    shown_tests: Literal[1, 2] | None = None
    """How many tests the prompt shows; the reward is then for the others alone. None: all, as published."""
    prompt: str = PROMPT
    """The first prompt; `{question}` and `{tests}` are filled in."""


@dataclass(frozen=True, kw_only=True)
class MbppRepair(ProgramSettings):
    """Settings of `mbpp-repair`."""

    task: ClassVar[str] = "mbpp-repair"
    fills: ClassVar[tuple[str, ...]] = Mbpp.fills

    attempts: str = ""
    """A JSONL file of wrong first attempts, as `scorl collect-repairs` writes it: `{"task_id", "program"}` a line, any
    number for a problem; `solution`, as in evalplus's samples, is read in the place of `program`."""
    path: str | None = None
    """The problems, as for `mbpp`."""
    shots: Literal[0, 1, 2, 3] = 3
    """Solved problems before the one that is asked, as for `mbpp`."""
    shown_tests: Literal[1, 2] | None = None
    """How many tests the prompt shows, as for `mbpp`."""
    prompt: str = PROMPT
    """The first prompt; `{question}` and `{tests}` are filled in."""


def mbpp(settings: Mbpp | None = None) -> Task:
    """The task `mbpp`, with the splits `train`, `validation` and `test` as far as the file has them.

    Raises:
        UserError: no such file, a row of another form, or no hub.
    """
    settings = settings or Mbpp()
    rows = load_rows(settings)
    shots = solved_examples(rows, settings)
    asked = [(number, row) for number, row in rows.items() if any(number in ids for ids in SPLITS.values())]
    made = keep_good(lambda numbered: (numbered[0], make_problem(numbered[1], settings, shots)), asked)
    splits = {name: [problem for number, problem in made if number in ids] for name, ids in SPLITS.items()}
    return settings.make_task({name: Finite(problems) for name, problems in splits.items() if problems})


def mbpp_repair(settings: MbppRepair | None = None) -> Task:
    """The task `mbpp-repair`: a problem for each wrong program, which is its first attempt.

    Raises:
        UserError: no such file, a row of another form, or a program for a problem that is not there.
    """
    settings = settings or MbppRepair()
    if not settings.attempts:
        raise UserError('mbpp-repair: name the file of wrong programs: attempts=..., lines of {"task_id", "program"}')
    rows = load_rows(settings)
    shots = solved_examples(rows, settings)
    splits: dict[str, list[Problem]] = {name: [] for name in SPLITS}

    def add(numbered: tuple[int, Row]) -> None:
        index, row = numbered
        number = task_id(row)
        program = column(row, "program" if "program" in row.values or "solution" not in row.values else "solution")
        if number not in rows or not isinstance(program, str):
            raise UserError(f"{row.where}: no problem {number} in the file of problems, or a program that is no text")
        problem = make_problem(rows[number], settings, shots)
        name = next((name for name, ids in SPLITS.items() if number in ids), None)
        if name is not None:
            splits[name].append(replace(problem, id=f"{problem.id}-{index}", first_attempt=as_block(program)))

    keep_good(add, enumerate(read_rows(settings.attempts)))
    return settings.make_task({name: Finite(problems) for name, problems in splits.items() if problems})


def load_rows(settings: Mbpp | MbppRepair) -> dict[int, Row]:
    """The rows by their number."""
    if settings.path:
        rows = read_rows(settings.path)
    else:
        name = "google-research-datasets/mbpp"
        rows = [
            row for split in ("prompt", "test", "validation", "train") for row in load_hub_rows(name, "full", split)
        ]
    found: dict[int, Row] = {}

    def add(row: Row) -> None:
        number = task_id(row)
        if number in found:
            raise UserError(f"{row.where}: task_id {number} stands here twice, first in {found[number].where}")
        found[number] = row

    keep_good(add, rows)
    return found


def task_id(row: Row) -> int:
    """The number of a row's problem: 11, or the end of `Mbpp/11`."""
    digits = re.search(r"[0-9]{1,9}$", str(column(row, "task_id")))
    if digits is None:
        raise UserError(f"{row.where}: task_id {row.values['task_id']!r:.60} is no number")
    return int(digits[0])


def solved_examples(rows: Mapping[int, Row], settings: Mbpp | MbppRepair) -> tuple[Message, ...]:
    """The solved problems before the one that is asked."""
    messages: list[Message] = []
    for number in SHOTS[: settings.shots]:
        if number not in rows:
            raise UserError(f"mbpp: problem {number}, shown as an example, is not in the file; shots=0 does without")
        solved = make_problem(rows[number], settings, ())
        messages += [*solved.prompt, Message(role="assistant", content=solved.solution or "")]
    return tuple(messages)


def make_problem(row: Row, settings: Mbpp | MbppRepair, shots: tuple[Message, ...]) -> Problem:
    """A row (`text` or `prompt`, `code`, `test_list`) as a problem."""
    tests = [text.replace("\r", "").strip() for text in read_tests(column(row, "test_list"), row.where)]
    shown, judged = tests[: settings.shown_tests], tests[settings.shown_tests or 0 :]
    if not judged:
        raise UserError(f"{row.where}: {len(tests)} tests, so none is left beside the {len(shown)} that are shown")
    code = text_column(row, "code").replace("\r", "").strip()
    question = text_column(row, "prompt" if "prompt" in row.values else "text").strip()
    # imports, and objects made of the program's own classes: part of the tests
    imports, prepared = row.values.get("test_imports") or [], row.values.get("test_setup_code") or ""
    if not isinstance(prepared, str) or not isinstance(imports, list) or not all(isinstance(t, str) for t in imports):
        raise UserError(f"{row.where}: test_imports should be a list of texts, and test_setup_code a text")
    before = [*imports, prepared.replace("\r", "")]
    answer = Examination(
        tests=tuple(text for text in (*before, *judged) if text.strip()),
        entry_point=find_entry_point(code, tests),
        timeout=settings.timeout,
    )
    asked = user(settings.prompt.replace("{question}", question).replace("{tests}", "\n".join(shown)))
    return Problem(f"mbpp-{task_id(row)}", (*shots, asked), answer, as_block(code))


def find_entry_point(code: str, tests: list[str]) -> str | None:
    """The function of the reference program that the tests call."""
    called = set(re.findall(r"(\w+)\s*\(", tests[0]))
    defined = re.findall(r"^def\s+(\w+)", code, re.MULTILINE)
    return next((name for name in defined if name in called), None)
