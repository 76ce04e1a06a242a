"""A row of data, the values in it by their names, and what becomes of rows that cannot be read."""

from __future__ import annotations

import ast
import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from scorl.errors import UserError

__all__ = ["OnError", "Row", "column", "handling_bad_rows", "keep_good", "read_written", "text_column"]

OnError = Literal["raise", "skip"]
Item = TypeVar("Item")
Result = TypeVar("Result")
_skipped: ContextVar[list[str] | None] = ContextVar("skipped", default=None)
"""What was wrong with the rows that were left out so far; None: a bad row ends the command."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row and where it stands, for messages."""

    values: dict[str, Any]
    where: str


@contextmanager
def handling_bad_rows(on_error: OnError, task: str) -> Iterator[None]:
    """Within, `keep_good` leaves bad rows out where that is asked for; at the end it is said how many they were."""
    faults: list[str] | None = [] if on_error == "skip" else None
    token = _skipped.set(faults)
    try:
        yield
    finally:
        _skipped.reset(token)
    if faults := list(dict.fromkeys(faults or ())):  # an own task is asked for its rows twice
        rows = f"{len(faults)} rows are" if len(faults) > 1 else "1 row is"
        warnings.warn(f"task '{task}': {rows} left out (on_error: skip), the first: {faults[0]}", stacklevel=2)


def keep_good(read: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """What `read` makes of each item; see `handling_bad_rows`.

    Raises:
        UserError: it refuses one, or, where bad rows are left out, all of them.
    """
    kept: list[Result] = []
    faults: list[UserError] = []
    for item in items:
        try:
            kept.append(read(item))
        except UserError as error:
            if _skipped.get() is None:
                raise
            faults.append(error)
    if faults and not kept:
        raise faults[0]
    if (skipped := _skipped.get()) is not None:
        skipped.extend(map(str, faults))
    return kept


def text_column(row: Row, name: str) -> str:
    """A value of a row that is to be read as text: a text that is not blank, or a number.

    Raises:
        UserError: the row has no such column, or it is something else.
    """
    value = column(row, name)
    kind = isinstance(value, (str, int, float)) and not isinstance(value, bool) and value == value
    if not kind or not str(value).strip():
        raise UserError(f"{row.where}: column '{name}' should be a text, not {value!r:.60}")
    return str(value)


def column(row: Row, name: str) -> Any:
    """A value of a row; `reward_model.ground_truth` is one within the column `reward_model`.

    Raises:
        UserError: the row has no such column.
    """
    value: Any = row.values
    for key in (name,) if name in row.values else name.split("."):
        value = read_written(value) if isinstance(value, str) else value
        if not isinstance(value, Mapping) or key not in value:
            within = f" in '{name.rpartition('.')[0]}'" if value is not row.values else ""
            found = ", ".join(map(str, value)) if isinstance(value, Mapping) else f"none, but {value!r:.60}"
            raise UserError(f"{row.where}: no column '{key if within else name}'{within}; the columns are: {found}")
        value = value[key]
    return value


def read_written(text: str) -> Any:
    """The list or mapping that a text holds as JSON or as Python writes it; any other text as it is.

    >>> read_written("{'a': 1}"), read_written('[{"a": null}]'), read_written("{x}")
    ({'a': 1}, [{'a': None}], '{x}')
    """
    readers: tuple[Callable[[str], Any], ...] = (json.loads, ast.literal_eval)
    for read in readers if text.lstrip()[:1] in ("{", "[") else ():
        try:
            return read(text.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return text
