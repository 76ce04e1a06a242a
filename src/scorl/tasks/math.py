r"""`math`: MATH with the split of which 500 test problems (MATH500) are kept for evaluation, from files or
the hub.

Rows have `problem`, `solution`, and optionally `answer`, `level`, `subject` and `unique_id`. Where there is
no answer, it is the last balanced `\boxed{}` of the solution; rows whose box is empty (number_theory/7115
and 7117) are left out, and counted.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

from scorl.errors import UserError
from scorl.tasks.columns import read_gold
from scorl.tasks.data import Finite, fill_prompt, hash_text, named_apart
from scorl.tasks.rows import Row, column, keep_good, text_column
from scorl.tasks.sources import load_hub_rows, read_rows
from scorl.tasks.task import Task
from scorl.text_files import as_path
from scorl.trajectory import Problem
from scorl.verifiers.extract_answer import last_box
from scorl.verifiers.math import judge

__all__ = ["CORRECTION", "PROMPT", "Math", "math"]

PROMPT = "{question}\n\nSolve it step by step and write the final answer in \\boxed{}."
CORRECTION = (
    "There might be an error in the solution above. Go through it again step by step, correct it if something is "
    "wrong, and write the final answer in \\boxed{} again."
)
SUBJECTS = (
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
)


@dataclass(frozen=True)
class Math:
    """Settings of `math`."""

    path: str | None = None
    """The training problems: a JSONL or Parquet file, or a folder with train.jsonl and (without `test_path`)
    test.jsonl; None: EleutherAI/hendrycks_math from the hub."""
    test_path: str | None = None
    """The file of MATH500; None: test.jsonl in the folder, or HuggingFaceH4/MATH-500 from the hub."""
    prompt: str = PROMPT
    """The first prompt; `{question}` is filled in."""
    correction: str = CORRECTION
    """The message between two attempts."""


def math(settings: Math | None = None) -> Task:
    """The task `math`: splits `train` (everything that is not in MATH500) and `test` (MATH500).

    Raises:
        UserError: no such file, a row without problem or solution, or no hub.
    """
    settings = settings or Math()
    train_file, test_file = find_files(settings)
    test = make_problems(
        read_rows(test_file) if test_file else load_hub_rows("HuggingFaceH4/MATH-500", None, "test"), settings
    )
    held_out = {problem.id for problem in test} | {problem.prompt[0]["content"] for problem in test}
    rows = read_rows(train_file) if train_file else load_all_rows()
    train = [
        problem
        for problem in make_problems(rows, settings)
        if problem.id not in held_out and problem.prompt[0]["content"] not in held_out
    ]
    if not train:
        raise UserError(f"math: every problem of {train_file} is also in {test_file}: nothing is left for training")
    return Task("math", {"train": Finite(train), "test": Finite(test)}, settings.correction, judge)


def find_files(settings: Math) -> tuple[Path | None, Path | None]:
    """The training file and the MATH500 file; None means the hub."""
    test = as_path(settings.test_path) if settings.test_path else None
    if settings.path is None:
        return None, test
    path = as_path(settings.path)
    if path.is_dir():
        return path / "train.jsonl", test or path / "test.jsonl"
    if test is None:
        raise UserError(f"math: {path} is one file; name that of MATH500 as well: test_path=...")
    return path, test


def load_all_rows() -> list[Row]:
    """All 12,500 problems, both of the original splits, from the hub."""
    name = "EleutherAI/hendrycks_math"
    return [row for subject in SUBJECTS for split in ("train", "test") for row in load_hub_rows(name, subject, split)]


def make_problems(rows: list[Row], settings: Math) -> list[Problem]:
    """Rows as problems; those without an answer are left out."""
    made = keep_good(lambda row: (row.where, make_problem(row, settings)), rows)
    left = [where for where, problem in made if not problem.answer]
    if len(left) == len(made):
        raise UserError(f"{left[0]}: no answer: neither a column 'answer' nor a \\boxed{{}} in the solution")
    if left:
        warnings.warn(
            f"task 'math': {len(left)} of {len(rows)} rows have no answer and are left out, the first is {left[0]}",
            stacklevel=2,
        )
    return named_apart([problem for _, problem in made if problem.answer])


def make_problem(row: Row, settings: Math) -> Problem:
    """A row as a problem; the id is the row's `unique_id`, or made of the problem's text."""
    question, given = text_column(row, "problem"), row.values.get("answer")
    solution = text_column(row, "solution") if row.values.get("solution") else ""
    if given in (None, ""):
        column(row, "solution")  # blank, it leaves the row out; where there is none, the file is another one
        answer = last_box(solution) or ""
    else:
        answer = read_gold(given, "answer", row.where)
    return Problem(
        id=str(row.values.get("unique_id") or f"math-{hash_text(question)}"),
        prompt=fill_prompt(settings.prompt, question),
        answer=answer.strip(),
        solution=solution or None,
        columns={name: row.values[name] for name in ("level", "subject") if row.values.get(name) is not None},
    )
