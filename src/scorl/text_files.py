"""Text of others: from whatever editor they have, UTF-8 with or without its mark; and before a terminal shows it."""

from __future__ import annotations

import re
from pathlib import Path

from scorl.errors import UserError

__all__ = ["decode_text", "make_visible", "read_text"]

MARKS_OF_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Controls but tab and line feed, what changes the direction of text around it, lone surrogates; as in page/dom.js."""


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


def make_visible(text: str) -> str:
    """The text without control characters and direction marks, which a model may write and a terminal would obey."""
    return UNSEEN.sub("\N{REPLACEMENT CHARACTER}", text)
