"""`programs`: files of one's own with problems whose answers are programs, and tests for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar

from annotated_types import Interval

from scorl.errors import UserError
from scorl.tasks.coding import ProgramSettings, Seconds, as_block, defines_check, read_pairs, read_tests
from scorl.tasks.columns import as_chat, find_problem, read_chat, row_id
from scorl.tasks.data import fill_prompt, hash_text, make_splits, split_key
from scorl.tasks.rows import Row, column, keep_good, read_written
from scorl.tasks.task import Task
from scorl.trajectory import Problem
from scorl.verifiers.program import SECONDS, Examination

__all__ = ["Programs", "programs", "read_examination"]

PROMPT = "{question}\n\nPut the program into one Python code block."


@dataclass(frozen=True, kw_only=True)
class Programs(ProgramSettings):
    """Settings of `programs`."""

    task: ClassVar[str] = "programs"
    fills: ClassVar[tuple[str, ...]] = ()  # a file of chat messages needs no prompt

    path: str | None = None
    """The problems, from whatever `files` reads; None: only `test_path` is there, to evaluate on. Columns: the problem
    (problem, prompt, question, messages or conversations, a text or chat messages);
    tests (a list of assert statements, one text of them, a function `check(candidate)`, or pairs of `input` and
    `output`); where wanted entry_point, setup (code for the tests), timeout, stdin, solution, id."""
    test_path: str | None = None
    """The file with the test problems; None: the split `test` of `path`, or a part of it."""
    test_fraction: Annotated[float, Interval(gt=0, lt=1)] = 0.1
    """Without test problems: the part of the problems, picked by a hash of their questions, that is held out."""
    prompt: str = PROMPT
    """The first prompt; `{question}` is filled in. Chat messages are taken as they are."""
    timeout: Seconds = SECONDS
    """Processor seconds of a program where its row names none; scaled to the machine's speed."""


def programs(settings: Programs) -> Task:
    """The task `programs`, with the splits `train`, `test` and `all` as far as there are files for them.

    Raises:
        UserError: no such file, a missing column, or tests that are none.
    """

    def make(rows: Sequence[Row]) -> list[Problem]:
        return keep_good(partial(make_problem, settings=settings), rows)

    return settings.make_task(make_splits("programs", settings.path, settings.test_path, settings.test_fraction, make))


def make_problem(row: Row, settings: Programs) -> Problem:
    """A row as a problem."""
    question, reply, key = as_chat(column(row, find_problem(row))), None, None
    if isinstance(question, str):
        if not question.strip():
            raise UserError(f"{row.where}: the problem is blank")
        prompt, key = fill_prompt(settings.prompt, question), split_key(question, PROMPT)
    else:
        prompt, reply = read_chat(question, row)
    solution = row.values.get("solution")
    return Problem(
        id=row_id(row) or hash_text(repr(question)),
        prompt=prompt,
        answer=read_examination(row.values, row.where, settings.timeout),
        solution=as_block(str(solution)) if solution else reply,
        split_key=key,
    )


def read_examination(values: dict[str, Any], where: str, timeout: float = SECONDS) -> Examination:
    """What the columns `tests`, `entry_point`, `setup`, `timeout` and `stdin` ask of a program.

    Raises:
        UserError: there are no tests, or a column is of another form.
    """
    column_of_tests = column(Row(values, where), "tests")
    if isinstance(column_of_tests, str):  # of a CSV file
        column_of_tests = read_written(column_of_tests)
    pairs = read_pairs(column_of_tests, where)
    tests = () if pairs else read_tests(column_of_tests, where)
    name, limit = values.get("entry_point"), values.get("timeout") or timeout
    for key in ("entry_point", "setup", "stdin"):
        if not isinstance(values.get(key) or "", str):
            raise UserError(f"{where}: {key} should be a text, not {values[key]!r:.60}")
    if isinstance(limit, bool) or not isinstance(limit, (int, float)) or not 0 < limit <= 600:
        raise UserError(f"{where}: timeout should be a number of seconds, at most 600, not {limit!r:.60}")
    if defines_check(tests) and not name:
        raise UserError(f"{where}: tests with a function check need entry_point, the name of what is checked")
    return Examination(
        tests=tests,
        pairs=pairs or (),
        setup=values.get("setup") or "",
        entry_point=name or None,
        timeout=float(limit),
        stdin=values.get("stdin") or "",
    )
