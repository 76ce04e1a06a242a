"""Rows from files and from the hub, and finite splits made of them."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

from scorl.errors import UserError
from scorl.seeds import derive
from scorl.trajectory import Problem, user

__all__ = [
    "Finite",
    "Row",
    "column",
    "fill_prompt",
    "hash_text",
    "load_hub_rows",
    "read_rows",
    "split_by_hash",
    "split_off",
]


@dataclass(frozen=True, slots=True)
class Row:
    """One row and where it stands, for messages."""

    values: dict[str, Any]
    where: str


@dataclass(frozen=True)
class Finite:
    """A finite split, drawn from in another order every epoch."""

    problems: Sequence[Problem]

    def draw(self, count: int, start: int, seed: int) -> list[Problem]:
        """`count` problems from the `start`-th on, through seeded permutations, one per epoch."""
        size = len(self.problems)
        return [
            self.problems[shuffle_epoch(size, seed, index // size)[index % size]]
            for index in range(start, start + count)
        ]

    def take(self, limit: int | None) -> list[Problem]:
        """The first `limit` problems in their order, or all."""
        return list(self.problems[:limit])


@lru_cache(maxsize=4)
def shuffle_epoch(size: int, seed: int, epoch: int) -> tuple[int, ...]:
    """The order of an epoch."""
    order = list(range(size))
    random.Random(derive(seed, "epoch", epoch)).shuffle(order)
    return tuple(order)


def split_by_hash(problems: Sequence[Problem], sizes: Sequence[int]) -> list[list[Problem]]:
    """Splits of the given sizes, in the order of a hash of the first prompts: the same on every machine."""
    ordered = sorted(problems, key=lambda problem: (hash_text(json.dumps(problem.prompt)), problem.id))
    ends = [sum(sizes[: index + 1]) for index in range(len(sizes))]
    return [ordered[end - size : end] for size, end in zip(sizes, ends, strict=True)]


def split_off(problems: Sequence[Problem], fraction: float, path: str) -> tuple[list[Problem], list[Problem]]:
    """Training problems and a test part by hash; equal prompts stay on one side.

    Raises:
        UserError: nothing is left to train on; `path` says of which file.
    """
    size = max(1, round(len(problems) * fraction))
    train, test = split_by_hash(problems, (len(problems) - size, size))
    asked = {str(problem.prompt) for problem in test}
    train = [problem for problem in train if str(problem.prompt) not in asked]
    if not train:
        raise UserError(f"{path}: too few different problems ({len(problems)} rows) to split off a test part")
    return train, test


def hash_text(text: str) -> str:
    """A short hash of a text."""
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).hexdigest()


def fill_prompt(template: str, question: str) -> tuple[Any, ...]:
    """The first prompt: the template with the question in it.

    Raises:
        UserError: the template has no place for the question.
    """
    if "{question}" not in template:
        raise UserError(f"the prompt {template!r} does not contain {{question}}, the place of the problem")
    return (user(template.replace("{question}", question)),)


def column(row: Row, name: str) -> Any:
    """A value of a row.

    Raises:
        UserError: the row has no such column.
    """
    if name not in row.values:
        raise UserError(f"{row.where}: no column '{name}'; the columns are: {', '.join(map(str, row.values))}")
    return row.values[name]


def read_rows(path: str | Path) -> list[Row]:
    """The rows of a JSONL file (`.gz` too), of a JSON list, or of a Parquet file (by its ending, `.parquet`).

    Raises:
        UserError: no such file, no rows, or a line that is no JSON object.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        names = ", ".join(sorted(entry.name for entry in path.iterdir())[:10]) if path.is_dir() else ""
        raise UserError(f"{path}: " + (f"a folder; name one of its files: {names}" if names else "no such file"))
    rows = read_parquet_rows(path) if path.suffix == ".parquet" else read_json_rows(path)
    if not rows:
        raise UserError(f"{path}: the file has no rows")
    return rows


def read_json_rows(path: Path) -> list[Row]:
    """The rows of a JSONL file, in which blank lines are skipped, or of a JSON list."""
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8-sig")
    except (UnicodeDecodeError, gzip.BadGzipFile, EOFError) as error:
        raise UserError(f"{path}: not a UTF-8 text file ({error})") from error
    if text.lstrip().startswith("["):
        return read_json_list(text, path)
    lines = text.split("\n")
    return [parse_row(line, f"{path}, line {index}") for index, line in enumerate(lines, 1) if line.strip()]


def read_json_list(text: str, path: Path) -> list[Row]:
    """The rows of a JSON list of objects."""
    try:
        entries = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not valid JSON ({error})") from error
    return [parse_row(json.dumps(entry), f"{path}, entry {index}") for index, entry in enumerate(entries, 1)]


def parse_row(line: str, where: str) -> Row:
    """A line as a row."""
    try:
        values = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not valid JSON ({error.msg} at column {error.colno})") from error
    if not isinstance(values, dict):
        raise UserError(f'{where}: not a JSON object; each line must be one, {{"column": value, ...}}')
    return Row(values, where)


def read_parquet_rows(path: Path) -> list[Row]:
    """The rows of a Parquet file."""
    try:
        parquet = import_module("pyarrow.parquet")
    except ImportError as error:
        raise UserError(f"{path}: Parquet files need pyarrow: pip install 'scorl[parquet]'") from error
    try:
        table = parquet.read_table(path).to_pylist()
    except (OSError, ValueError) as error:  # pyarrow's own exceptions are both
        raise UserError(f"{path}: not a readable Parquet file ({error})") from error
    return [Row(values, f"{path}, row {index}") for index, values in enumerate(table, 1)]


def load_hub_rows(name: str, config: str | None, split: str) -> list[Row]:
    """The rows of a data set on the Hugging Face hub.

    Raises:
        UserError: the `datasets` package is missing, or the hub does not answer.
    """
    advice = "or give the data as files: path=..."
    try:
        datasets = import_module("datasets")
    except ImportError as error:
        raise UserError(f"{name} from the hub needs: pip install 'scorl[hub]'; {advice}") from error
    try:
        table = datasets.load_dataset(name, config, split=split)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{name} could not be loaded from the hub ({error}); {advice}") from error
    return [Row(dict(values), f"{name}, {split} row {index}") for index, values in enumerate(table, 1)]
