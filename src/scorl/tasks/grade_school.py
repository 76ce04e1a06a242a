"""`gsm8k` and `svamp`: word problems of grade school, from files or from the hub."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from scorl.errors import UserError
from scorl.tasks.columns import row_id
from scorl.tasks.data import Finite, fill_prompt, named_apart, split_by_hash, split_key
from scorl.tasks.rows import Row, column, keep_good, text_column
from scorl.tasks.sources import load_hub_rows, read_rows
from scorl.tasks.task import Problems, Task
from scorl.tasks.word_problems import CORRECTION, PROMPT
from scorl.text_files import as_path
from scorl.trajectory import Problem
from scorl.verifiers.math import judge_numbers
from scorl.verifiers.normalize import parse_number

__all__ = ["Gsm8k", "Svamp", "gsm8k", "svamp"]

CALCULATOR = re.compile(r"<<[^<>]*>>")
OPERATORS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}
UNREADABLE = (SyntaxError, KeyError, ValueError, TypeError, OverflowError, RecursionError, MemoryError)
"""What Python says of a text that is no equation."""
Tree: TypeAlias = "float | tuple[str, Tree, Tree]"
"""An equation: a number, or (operator, left, right)."""


@dataclass(frozen=True)
class Gsm8k:
    """Settings of `gsm8k`."""

    path: str | None = None
    """A folder with train.jsonl and test.jsonl, or one file, a fifth of which (by hash) is the test split;
    None: openai/gsm8k from the hub."""
    prompt: str = PROMPT
    """The first prompt; `{question}` is filled in."""
    correction: str = CORRECTION
    """The message between two attempts."""


@dataclass(frozen=True)
class Svamp:
    """Settings of `svamp`."""

    path: str | None = None
    """The file of 1,000 problems, or a folder with it as its only .jsonl file; None: ChilleD/SVAMP from
    the hub. Split by a hash of the question: 70% train, 10% validation, 20% test."""
    prompt: str = PROMPT
    """The first prompt; `{question}` is filled in."""
    correction: str = CORRECTION
    """The message between two attempts."""


def gsm8k(settings: Gsm8k | None = None) -> Task:
    """The task `gsm8k`.

    Raises:
        UserError: no such file, a row of another form, or no hub.
    """
    settings = settings or Gsm8k()
    splits: Mapping[str, Problems]
    if settings.path is not None and not as_path(settings.path).is_dir():
        rows = read_rows(settings.path)
        splits = split_parts(make_gsm8k_problems(rows, settings, "file"), {"test": 5})
    else:
        splits = {
            split: Finite(make_gsm8k_problems(load_gsm8k_rows(settings.path, split), settings, split))
            for split in ("train", "test")
        }
    return Task("gsm8k", splits, settings.correction, judge_numbers)


def load_gsm8k_rows(folder: str | None, split: str) -> list[Row]:
    """The rows of a split."""
    if folder is None:
        return load_hub_rows("openai/gsm8k", "main", split)
    return read_rows(as_path(folder) / f"{split}.jsonl")


def make_gsm8k_problems(rows: list[Row], settings: Gsm8k, split: str) -> list[Problem]:
    """Rows (`question`, `answer` ending in `#### N`) as problems."""

    def make(numbered: tuple[int, Row]) -> Problem:
        index, row = numbered
        solution, mark, answer = text_column(row, "answer").rpartition("####")
        answer = answer.strip().replace(",", "")
        if not mark or parse_number(answer) is None:
            raise UserError(f"{row.where}: the answer does not end in '#### N'")
        text = f"{CALCULATOR.sub('', solution).strip()}\nThe answer is {answer}."
        return make_problem(f"gsm8k-{split}-{index}", row, settings.prompt, answer, text.strip())

    return keep_good(make, enumerate(rows))


def svamp(settings: Svamp | None = None) -> Task:
    """The task `svamp`.

    Raises:
        UserError: no such file, a row of another form, or no hub.
    """
    settings = settings or Svamp()
    rows = read_rows(find_only_file(settings.path)) if settings.path else load_svamp_rows()
    problems = keep_good(lambda numbered: make_svamp_problem(*numbered, settings), enumerate(rows))
    splits = split_parts(named_apart(problems), {"validation": 10, "test": 5})
    return Task("svamp", splits, settings.correction, judge_numbers)


def split_parts(problems: Sequence[Problem], parts: Mapping[str, int]) -> dict[str, Finite]:
    """A training split, and others by hash that are one part in so many."""
    sizes = {name: len(problems) // part for name, part in parts.items()}
    sizes = {"train": len(problems) - sum(sizes.values()), **sizes}
    return dict(zip(sizes, map(Finite, split_by_hash(problems, tuple(sizes.values()))), strict=True))


def make_problem(name: str, row: Row, prompt: str, answer: str, solution: str) -> Problem:
    """A row's question in the recipe's words, or in any other, as one and the same problem to the splits."""
    question = text_column(row, "question").strip()
    return Problem(name, fill_prompt(prompt, question), answer, solution, split_key=split_key(question, PROMPT))


def find_only_file(path: str) -> Path:
    """The file, or the only .jsonl file of the folder."""
    folder = as_path(path)
    files = sorted(folder.glob("*.jsonl")) if folder.is_dir() else [folder]
    if len(files) != 1:
        raise UserError(f"{path}: {len(files)} .jsonl files; name the one with the problems")
    return files[0]


def load_svamp_rows() -> list[Row]:
    """All 1,000 rows of the hub's copy, in which story and question are two columns."""
    rows = load_hub_rows("ChilleD/SVAMP", None, "train") + load_hub_rows("ChilleD/SVAMP", None, "test")
    return [
        Row(
            {
                "id": column(row, "ID"),
                "question": f"{str(column(row, 'Body')).strip()} {str(column(row, 'Question')).strip()}",
                "answer": column(row, "Answer"),
                "equation": column(row, "Equation"),
            },
            row.where,
        )
        for row in rows
    ]


def make_svamp_problem(index: int, row: Row, settings: Svamp) -> Problem:
    """A row (`question`, `answer`, `equation_prefix` or `equation`) as a problem."""
    answer = write_number(column(row, "answer"), row.where)
    prefix, infix = row.values.get("equation_prefix"), row.values.get("equation")
    tree = parse_prefix(prefix, row.where) if prefix else parse_infix(infix, row.where) if infix else None
    solution = (
        f"The answer is {answer}." if tree is None else " ".join([*write_steps(tree), f"The answer is {answer}."])
    )
    name = row_id(row) or f"svamp-{index}"
    return make_problem(name, row, settings.prompt, answer, solution)


def write_number(value: object, where: str) -> str:
    """A number as people write it: 8 for 8.0."""
    try:
        number = float(str(value))
        whole = int(number)
    except (ValueError, OverflowError) as error:  # of NaN and infinity as well
        raise UserError(f"{where}: the answer {value!r:.60} is not a number") from error
    return f"{number:.10g}" if number != whole else str(whole)


def parse_prefix(equation: str, where: str) -> Tree:
    """`- + 6 2 3` as a tree."""
    tokens = equation.split()[::-1] if isinstance(equation, str) else []

    def read() -> Tree:
        token = tokens.pop()
        return (token, read(), read()) if token in OPERATORS.values() else float(token)

    try:
        tree = read()
    except (IndexError, ValueError, RecursionError) as error:
        raise UserError(f"{where}: equation_prefix {equation!r:.60} is not like '- 18 10'") from error
    return tree


def parse_infix(equation: str, where: str) -> Tree:
    """`( ( 6.0 + 2.0 ) - 3.0 )` as a tree."""

    def read(node: ast.expr) -> Tree:
        if isinstance(node, ast.BinOp):
            return OPERATORS[type(node.op)], read(node.left), read(node.right)
        return float(ast.literal_eval(node))

    try:
        return read(ast.parse(equation.strip(), mode="eval").body)
    except (*UNREADABLE, AttributeError) as error:
        raise UserError(f"{where}: equation {equation!r:.60} is not like '( 18.0 - 10.0 )'") from error


def write_steps(tree: Tree) -> list[str]:
    """The steps from the inside out: `6 + 2 = 8.`, `8 - 3 = 5.`"""
    return work_out(tree)[0]


def work_out(tree: Tree) -> tuple[list[str], float]:
    """The steps of a tree and its value."""
    if not isinstance(tree, tuple):
        return [], tree
    operator, (before, left), (between, right) = tree[0], work_out(tree[1]), work_out(tree[2])
    if operator == "/":
        value = left / right if right else float("nan")
    else:
        value = {"+": left + right, "-": left - right, "*": left * right}[operator]
    return [*before, *between, f"{left:.10g} {operator} {right:.10g} = {value:.10g}."], value
