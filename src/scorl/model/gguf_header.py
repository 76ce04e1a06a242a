"""The metadata at the head of a GGUF file, without the minutes that reading all of it takes."""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO

__all__ = ["has_chat_template", "read_text_values"]

TEMPLATE = b"tokenizer.chat_template"
STRING, ARRAY = 8, 9
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a value by its type, as the format numbers them."""


def has_chat_template(path: Path) -> bool | None:
    """Whether a GGUF file brings a chat template; None: it is no GGUF file that can be read."""
    try:
        with path.open("rb") as file:
            return any(_read_key(file) == TEMPLATE for _ in _pairs(file))
    except (OSError, ValueError, struct.error, KeyError):
        return None


def read_text_values(path: Path, keys: Collection[str]) -> dict[str, str]:
    """Those of some values that a GGUF file has and that are texts; what cannot be read has none."""
    found: dict[str, str] = {}
    try:
        with path.open("rb") as file:
            for _ in _pairs(file):
                key, kind = file.read(_number(file, "<Q")).decode(), _number(file, "<I")
                if key in keys and kind == STRING:
                    found[key] = file.read(_number(file, "<Q")).decode()
                else:
                    _skip(file, kind)
    except (OSError, ValueError, struct.error, KeyError):
        return found
    return found


def _pairs(file: BinaryIO) -> Iterator[int]:
    """The numbers of the keys that follow, before the first of which the file then stands.

    Raises:
        ValueError: it is no GGUF file, or of the first version.
    """
    magic, version, _, pairs = struct.unpack("<4sIQQ", file.read(24))
    if magic != b"GGUF" or version < 2:
        raise ValueError("no GGUF file")
    yield from range(pairs)


def _read_key(file: BinaryIO) -> bytes:
    """The next key; its value is skipped."""
    key = file.read(_number(file, "<Q"))
    _skip(file, _number(file, "<I"))
    return key


def _skip(file: BinaryIO, kind: int) -> None:
    if kind == STRING:
        file.seek(_number(file, "<Q"), 1)
    elif kind == ARRAY:
        inner, count = _number(file, "<I"), _number(file, "<Q")
        if inner in SIZES:
            file.seek(SIZES[inner] * count, 1)
        else:
            for _ in range(count):
                _skip(file, inner)
    else:
        file.seek(SIZES[kind], 1)


def _number(file: BinaryIO, form: str) -> int:
    (number,) = struct.unpack(form, file.read(struct.calcsize(form)))
    return int(number)
