"""What the columns of people's rows mean: the problem, its gold answer, chat messages, by convention or by name."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from scorl.errors import UserError
from scorl.tasks.rows import Row, column, read_written
from scorl.trajectory import Message
from scorl.verifiers.extract_answer import extract_reference
from scorl.verifiers.math import normalize_reference
from scorl.verifiers.normalize import parse_number

__all__ = [
    "as_chat",
    "check_golds",
    "find_column",
    "find_problem",
    "read_chat",
    "read_gold",
    "read_solution",
    "row_id",
    "write_number",
]

PROBLEMS = ("problem", "prompt", "question", "messages", "conversations")
ANSWERS = ("answer", "final_answer", "ground_truth", "reward_model.ground_truth", "solution")
"""By what names problems and gold answers go: scorl's own, verl's, open-r1's."""

MESSAGES = 'chat messages like [{"role": "user", "content": "..."}]'
ROLES = {"human": "user", "gpt": "assistant"}
"""ShareGPT's names of those who speak."""
SERIALIZED = re.compile(r"""\s*(?:array\()?\[?\s*\{\s*["'](?:role|content|from|value)["']\s*:""")
MISSING = frozenset({"", "nan", "<na>", "nat", "inf", "-inf"})
"""What pandas makes of a missing value, as a float or as a text, and what is no number."""
NO_ANSWER = frozenset(
    ("none", "null", "n/a", "na", "?", "-", "--", "unknown", "todo", "tbd", "proof", "notfound", "not found")
)
"""What stands in data sets where there is no answer; `proof` and `notfound` are NuminaMath's."""


def find_column(row: Row, names: Sequence[str]) -> str | None:
    """The first of the names that the row has a column for."""
    for name in names:
        try:
            column(row, name)
        except UserError:
            continue
        return name
    return None


def find_problem(row: Row) -> str:
    """The column with the problem, by its usual names.

    Raises:
        UserError: there is none of them.
    """
    name = find_column(row, PROBLEMS)
    if name is None:
        raise UserError(
            f"{row.where}: no column {', '.join(PROBLEMS)}; name the one with the problem (problem=...), "
            f"the columns are: {', '.join(map(str, row.values))}"
        )
    return name


def row_id(row: Row) -> str | None:
    """The row's own `id`, if it has one."""
    value = row.values.get("id")
    return None if value is None or value == "" or value != value else write_number(value)


def write_number(value: Any) -> str:
    """A value as people write it: 48 for the 48.0 that a column of floats makes of it.

    >>> [write_number(value) for value in (48.0, 2.5, 7, "7.0")]
    ['48', '2.5', '7', '7.0']
    """
    if isinstance(value, (float, Decimal)) and math.isfinite(value) and value == int(value):
        return str(int(value))
    return str(value)


def read_gold(value: Any, name: str, where: str) -> str:
    """A gold answer, a text or a number (or a list of one of them), as a text.

    Raises:
        UserError: it is missing (null, NaN, blank), infinite, or something else.
    """
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    kind = isinstance(value, (str, int, float, Decimal)) and not isinstance(value, bool)
    if not kind or str(value).strip().lower() in MISSING:
        raise UserError(f"{where}: column '{name}' is no answer (a text or a number), but {value!r:.60}")
    return write_number(value)


def check_golds(golds: Sequence[tuple[str, str]], task: str, verifier: str = "math") -> None:
    """Name gold answers that no answer will match: words, and for `number` all that is no plain number.

    Args:
        golds: the place of each and its text.
        task: that messages name.
        verifier: `math` or `number`.

    Raises:
        UserError: all of them are.
    """
    unmatched, what = (is_prose, "words") if verifier == "math" else (is_no_number, "no plain numbers,")
    prose = [(where, gold) for where, gold in golds if unmatched(gold)]
    if not prose:
        return
    where, gold = prose[0]
    sentence = (
        f"task '{task}': {len(prose)} of {len(golds)} gold answers are {what} that no answer will match, the first in "
        f"{where}: {gold!r:.60}. Leave those rows out, or judge by characters (verifier: exact) or a reward function"
    )
    if len(prose) == len(golds):
        raise UserError(sentence)
    warnings.warn(sentence, stacklevel=2)


def is_no_number(gold: str) -> bool:
    """Whether a gold answer is none that the verifier `number` finds a number in."""
    return parse_number(normalize_reference(gold)) is None


def is_prose(gold: str) -> bool:
    r"""Whether a gold answer is words rather than mathematics: `proof`, or four words without a figure or a formula.

    >>> [is_prose(gold) for gold in ("see the solution above", "proof", "Monday", r"\\text{All real numbers but 3}")]
    [True, True, False, False]
    """
    text = extract_reference(gold).strip()
    wordy = len(re.findall(r"[A-Za-z]{2,}", text)) > 3 and not re.search(r"[\d\\=<>$]", text)
    return wordy or text.lower().rstrip(". ") in NO_ANSWER


def read_solution(row: Row, name: str) -> str:
    """A reference solution: a text, or what the assistant says, as TRL's `completion` is written.

    Raises:
        UserError: it is neither.
    """
    value = as_chat(column(row, name))
    if isinstance(value, list) and len(value) == 1:
        value = read_message(value[0], row)["content"]
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{row.where}: column '{name}' is no solution (a text), but {value!r:.60}")
    return value


def as_chat(value: Any) -> Any:
    """The messages that a text holds as JSON or as Python writes them; any other value as it is.

    >>> as_chat('[{"role": "user", "content": "2 + 2?"}]')
    [{'role': 'user', 'content': '2 + 2?'}]
    """
    if isinstance(value, str) and SERIALIZED.match(value):
        value = read_written(value)
        if isinstance(value, str):
            return [value]  # no messages, and no problem to be asked either: `read_chat` names it
    return [value] if isinstance(value, Mapping) else value


def read_chat(value: Any, row: Row) -> tuple[tuple[Message, ...], str | None]:
    """Chat messages that end with one of the user, and the assistant's reply to them where the row has one.

    Raises:
        UserError: they are of another form, or nothing is asked.
    """
    if not isinstance(value, list) or not value:
        raise UserError(f"{row.where}: a problem is a text or {MESSAGES}, not {value!r:.60}")
    messages = tuple(read_message(entry, row) for entry in value)
    reply = messages[-1]["content"] if messages[-1]["role"] == "assistant" else None
    asked = messages[:-1] if reply is not None else messages
    if not asked or asked[-1]["role"] != "user":
        last = asked[-1]["role"] if asked else "assistant"
        raise UserError(f"{row.where}: the last message is of '{last}', but should be of 'user'")
    return asked, reply


def read_message(entry: Any, row: Row) -> Message:
    """A message, with the keys of ShareGPT or its text in parts too."""
    if isinstance(entry, Mapping):
        role, content = entry.get("role", entry.get("from")), entry.get("content", entry.get("value"))
        if isinstance(content, list) and all(isinstance(p, Mapping) and p.get("type") == "text" for p in content):
            content = "".join(str(part.get("text")) for part in content)
        if isinstance(role, str) and isinstance(content, str):
            return Message(role=ROLES.get(role, role), content=content)
    raise UserError(f"{row.where}: {MESSAGES} are wanted, not {entry!r:.60}")
