"""Text that people wrote with whatever editor they have, or a model: UTF-8, JSON, paths, and what a terminal obeys."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from scorl.errors import UserError

__all__ = [
    "DEPTH",
    "as_message",
    "as_path",
    "check_characters",
    "check_values",
    "decode_text",
    "make_visible",
    "parse_json",
    "read_text",
]

MARKS_OF_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
LINE = 1000
"""The most characters of a line of a message."""
CUT = " ..."
"""What stands at the end of one that was longer."""
DEPTH = 100
"""The most mappings and lists within each other."""
UNSEEN = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff"
    r"\ufff9-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0001\U000e0020-\U000e007f]"
)
"""Unicode's controls but tab and line feed, lone surrogates, its line separators, and what it calls format characters:
they change the direction of text around them or are not seen at all. But for the joiners and signs that words of
languages have in them; as in page/dom.js."""


def read_text(path: Path) -> str:
    """The text of a file; see `decode_text`."""
    return decode_text(path.read_bytes(), path)


def decode_text(data: bytes, path: Path) -> str:
    """UTF-8 as text, without a byte order mark.

    Raises:
        UserError: it is something else; `path` says of which file.
    """
    if data.startswith(MARKS_OF_UTF_16) or b"\0" in data[:100]:
        raise UserError(f"{path}: is UTF-16 (or no text at all); save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        byte = data[error.start]
        raise UserError(
            f"{path}, line {line}: not UTF-8 (byte 0x{byte:02x}), perhaps Windows-1252; save it as UTF-8"
        ) from error


def parse_json(text: str | bytes, where: str) -> Any:
    """JSON as values.

    Raises:
        UserError: it is none, or nested too deeply, or has a number of thousands of digits; `where` says whose it is.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        whole = text if isinstance(text, str) else text.decode(errors="replace")
        place = f"line {error.lineno}, column {error.colno}" if "\n" in whole.strip() else f"column {error.colno}"
        raise UserError(f"{where}: not valid JSON ({error.msg} at {place})") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 (byte 0x{error.object[error.start]:02x}); save it as UTF-8") from None
    except ValueError:  # Python reads no longer ones, for the time that it would take
        raise UserError(f"{where}: a number of more than 4,300 digits; as text, in quotes, it can be any") from None
    except RecursionError:
        raise UserError(f"{where}: nested too deeply") from None


def check_characters(text: str, where: str) -> None:
    """Refuse halves of characters (lone surrogates), which no file and no tokenizer takes.

    Raises:
        UserError: there is one; `where` says whose text it is.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(f"{where}: this is not UTF-8, for it holds half a character: {text!a:.60}") from None


def check_values(values: Any, where: str, most: int | None = None) -> None:
    """Refuse what can be written down and is no data: towers, circles of aliases, halves of characters.

    Args:
        values: plain values, as JSON and YAML have them.
        where: whose they are.
        most: values that are taken; None: any number.

    Raises:
        UserError: they are of that kind.
    """
    left: list[tuple[Any, int]] = [(values, 1)]
    count = 0
    while left:
        value, depth = left.pop()
        count += 1
        if depth > DEPTH:
            raise UserError(f"{where}: nested too deeply: more than {DEPTH} levels, or an alias of what it is in")
        if most is not None and count > most:
            raise UserError(f"{where}: more than {most:,} values, with every alias (*) written out")
        if isinstance(value, dict):
            left += ((part, depth + 1) for pair in value.items() for part in pair)
        elif isinstance(value, list):
            left += ((part, depth + 1) for part in value)
        elif isinstance(value, str) and not value.isascii():
            check_characters(value, where)


def as_path(text: str | Path) -> Path:
    """A path as a user wrote it, with `~` as the home folder.

    Raises:
        UserError: no file could be called so.
    """
    try:
        path = Path(text).expanduser()
        str(path).encode()
        with suppress(FileNotFoundError, NotADirectoryError):
            path.stat()  # is_file() takes a name that is too long for one of no file, from Python 3.14 on
    except (OSError, RuntimeError, ValueError) as error:  # too long; the home of nobody; half a character
        reason = getattr(error, "strerror", None) or str(error).partition(":")[0]
        raise UserError(f"{str(text)!r:.60} cannot be a path: {reason}") from None
    if "\0" in str(text):
        raise UserError(f"{str(text)!r:.60} cannot be a path: it has a NUL in it")
    return path


def as_message(text: str) -> str:
    """A message for a terminal: nothing that it would obey, and no line that goes on for pages."""
    return re.sub(rf"(?m)^(.{{{LINE - len(CUT)}}})(?=.{{{len(CUT) + 1}}}).+$", rf"\1{CUT}", make_visible(text))


def make_visible(text: str) -> str:
    """The text without control characters and what is not seen, which a model may write and a terminal would obey."""
    return UNSEEN.sub("\N{REPLACEMENT CHARACTER}", text)
