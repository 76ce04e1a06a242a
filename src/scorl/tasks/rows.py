"""A row of data, and the values in it by their names."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from scorl.errors import UserError

__all__ = ["Row", "column", "read_written"]


@dataclass(frozen=True, slots=True)
class Row:
    """One row and where it stands, for messages."""

    values: dict[str, Any]
    where: str


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
