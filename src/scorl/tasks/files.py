"""`files`: any JSONL or Parquet file with problems, as strings or as chat messages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import Interval

from scorl.errors import UserError, nearest
from scorl.tasks.data import Finite, Row, column, fill_prompt, hash_text, read_rows, split_off
from scorl.tasks.reward import judge_by, load_function
from scorl.tasks.task import Task
from scorl.trajectory import Message, Problem
from scorl.verifiers import TEXT_VERIFIERS, Judge

__all__ = ["Files", "files"]

CORRECTION = (
    "There might be an error in the answer above. Go through it again, correct it if something is wrong, and end with "
    "the final answer in the same form as before."
)
GUESSES = ("problem", "prompt", "question")


@dataclass(frozen=True)
class Files:
    """Settings of `files`."""

    path: str
    """A JSONL file, or a Parquet file (ending in .parquet)."""
    test_path: str | None = None
    """The file with the test problems; None: a part of `path`."""
    test_fraction: Annotated[float, Interval(gt=0, lt=1)] = 0.1
    """Without `test_path`: the part of the problems, picked by a hash of their prompts, that is held out."""
    problem: str | None = None
    """The column with the problem, a string or chat messages; None: problem, prompt or question."""
    answer: str = "answer"
    """The column with the gold answer; a Python reward function can do without."""
    solution: str | None = None
    """The column with reference solutions, for `supervised`."""
    verifier: str = "math"
    """`math`, `exact` (the same characters), or a reward function: module:function or file.py:function."""
    prompt: str = "{question}"
    """The first prompt; `{question}` is filled in. Chat messages are taken as they are."""
    correction: str = CORRECTION
    """The message between two attempts."""

    def __post_init__(self) -> None:
        if ":" not in self.verifier and self.verifier not in TEXT_VERIFIERS:
            hint = nearest(self.verifier, [*TEXT_VERIFIERS, "module:function", "file.py:function"])
            raise UserError(f"files: no verifier '{self.verifier}': {hint}")


def files(settings: Files) -> Task:
    """The task `files`, with the splits `train` and `test`.

    Raises:
        UserError: no such file, a missing column, broken JSON, or no such verifier.
    """
    rows = read_rows(settings.path)
    name = settings.problem or guess_column(rows[0])
    chat = not isinstance(column(rows[0], name), str)
    train = [make_problem(row, name, chat, settings) for row in rows]
    if settings.test_path:
        test = [make_problem(row, name, chat, settings) for row in read_rows(settings.test_path)]
    else:
        train, test = split_off(train, settings.test_fraction, settings.path)
    splits = {"train": Finite(train), "test": Finite(test)}
    return Task("files", splits, settings.correction, choose_judge(settings, chat))


def choose_judge(settings: Files, chat: bool) -> Judge:
    """The judge that the settings name."""
    if settings.verifier in TEXT_VERIFIERS:
        return TEXT_VERIFIERS[settings.verifier]
    return judge_by(load_function(settings.verifier), settings.verifier, chat)


def guess_column(row: Row) -> str:
    """The column with the problem, by its usual names."""
    for name in GUESSES:
        if name in row.values:
            return name
    raise UserError(
        f"{row.where}: no column {', '.join(GUESSES)}; name the one with the problem (problem=...), "
        f"the columns are: {', '.join(map(str, row.values))}"
    )


def make_problem(row: Row, name: str, chat: bool, settings: Files) -> Problem:
    """A row as a problem."""
    question = column(row, name)
    prompt = read_messages(question, row) if chat else fill_prompt(settings.prompt, require_text(question, name, row))
    answer = None if ":" in settings.verifier else require_answer(column(row, settings.answer), settings.answer, row)
    solution = require_text(column(row, settings.solution), settings.solution, row) if settings.solution else None
    key = row.values.get("id", hash_text(repr((row.where, prompt))))
    columns = {other: value for other, value in row.values.items() if other not in (name, "prompts", "completions")}
    return Problem(str(key), prompt, answer, solution, columns)


def require_text(value: Any, name: str, row: Row) -> str:
    """A column that must be a string."""
    if not isinstance(value, str):
        raise UserError(f"{row.where}: column '{name}' is no string, but {value!r:.60}")
    return value


def require_answer(value: Any, name: str, row: Row) -> str:
    """A column that must be a string or a number, as a string."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)) or value == "":
        raise UserError(f"{row.where}: column '{name}' is no answer (a string or a number), but {value!r:.60}")
    return str(value)


def read_messages(value: Any, row: Row) -> tuple[Message, ...]:
    """Chat messages, ending with one of the user."""
    entries: list[Any] = value if isinstance(value, list) and value else [None]
    if not all(
        isinstance(entry, dict) and isinstance(entry.get("role"), str) and isinstance(entry.get("content"), str)
        for entry in entries
    ):
        raise UserError(
            f'{row.where}: chat messages look like [{{"role": "user", "content": "..."}}], not {value!r:.60}'
        )
    if entries[-1]["role"] != "user":
        raise UserError(f"{row.where}: the last message is of '{entries[-1]['role']}', but should be of 'user'")
    return tuple(Message(role=entry["role"], content=entry["content"]) for entry in entries)
