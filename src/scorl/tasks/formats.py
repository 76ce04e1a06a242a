"""Rows from one file: JSONL, JSON, CSV and TSV, Parquet and Arrow, compressed by gzip or not."""

from __future__ import annotations

import csv
import gzip
import io
import struct
import zlib
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from scorl.errors import UserError
from scorl.tasks.rows import Row, keep_good
from scorl.text_files import check_values, decode_text, parse_json

__all__ = ["read_file"]

CsvLine = tuple[str, list[str], list[str]]
"""Where it stands, the columns' names, and its values."""
HOLDERS = ("data", "rows", "examples")
"""Under what a JSON file that is one object may have its list of rows."""
PACKED = {
    b"PK\x03\x04": "a zip archive or an Excel file",
    b"\x28\xb5\x2f\xfd": "compressed by zstd",
    b"\xfd7zXZ": "compressed by xz",
    b"BZh": "compressed by bzip2",
}
"""What is not read, by its first bytes."""


def read_file(path: Path) -> list[Row]:
    """The rows of one file, by its first bytes and its ending."""
    try:
        data = path.read_bytes()
        if data.startswith(b"\x1f\x8b"):
            data = gzip.decompress(data)
    except (EOFError, OSError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    packed = next((kind for mark, kind in PACKED.items() if data.startswith(mark)), None)
    if packed:
        raise UserError(f"{path}: is {packed}; unpack it, or compress it by gzip")
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet") or data.startswith(b"PAR1"):
        return read_table(data, path, "Parquet")
    if name.endswith(".arrow") or data.startswith(b"ARROW1"):
        return read_table(data, path, "Arrow")
    text = decode_text(data, path)
    if name.endswith((".csv", ".tsv")):
        return keep_good(as_csv_row, read_csv(text, path, "\t" if name.endswith(".tsv") else None))
    return read_json(text, path)


def read_json(text: str, path: Path) -> list[Row]:
    """The rows of a JSONL file, in which blank lines are skipped, or of a JSON list (alone, or in an object)."""
    opening = text.lstrip()[:1]
    if opening == "[" and text.rstrip().endswith("]"):
        return read_list(parse_json(text, str(path)), path)
    lines = [(f"{path}, line {number}", line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if opening == "{" and (len(lines) == 1 or lines[0][1].strip() == "{"):
        whole = parse_json(text, lines[0][0] if len(lines) == 1 else str(path))
        held = [whole[key] for key in HOLDERS if isinstance(whole.get(key), list)]
        return read_list(held[0], path) if held else [as_row(whole, lines[0][0])]
    return keep_good(lambda line: as_row(parse_json(line[1], line[0]), line[0]), lines)


def read_list(entries: Sequence[Any], path: Path) -> list[Row]:
    """The rows of a JSON list."""
    return keep_good(lambda entry: as_row(entry[1], f"{path}, entry {entry[0]}"), enumerate(entries, 1))


def as_row(values: Any, where: str) -> Row:
    """An object of JSON as a row."""
    if not isinstance(values, dict):
        raise UserError(f'{where}: not a JSON object; each line must be one, {{"column": value, ...}}')
    check_values(values, where)
    return Row(values, where)


def as_csv_row(line: CsvLine) -> Row:
    """A line of a CSV file as a row; every value is a text."""
    where, names, fields = line
    if len(fields) != len(names):
        raise UserError(f"{where}: {len(fields)} values for {len(names)} columns: {', '.join(names):.200}")
    return Row(dict(zip(names, fields, strict=True)), where)


def read_csv(text: str, path: Path, delimiter: str | None) -> Iterator[CsvLine]:
    """The lines of a CSV file, whose first one names the columns."""
    csv.field_size_limit(2**31 - 1)
    first = text.lstrip().partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter or find_delimiter(first), strict=True)
    names: list[str] = []
    start = 1
    try:
        for fields in reader:
            where, start = f"{path}, line {start}", reader.line_num + 1
            if not any(field.strip() for field in fields):
                continue
            if not names:
                names = [name.strip() for name in fields]
                if twice := next((name for name in names if names.count(name) > 1), None):
                    raise UserError(f"{where}: the column '{twice:.60}' stands here twice")
            else:
                yield where, names, fields
    except csv.Error as error:
        raise UserError(f"{path}, line {start}: not valid CSV ({error})") from error


def find_delimiter(header: str) -> str:
    """What stands between the columns' names: a comma, or where there is none a semicolon or a tab."""
    return next((mark for mark in (",", ";", "\t") if mark in header), ",")


def read_table(data: bytes, path: Path, kind: str) -> list[Row]:
    """The rows of a Parquet or an Arrow file."""
    try:
        pyarrow = import_module("pyarrow")
        parquet, ipc = import_module("pyarrow.parquet"), import_module("pyarrow.ipc")
    except ImportError as error:
        raise UserError(f"{path}: {kind} files need pyarrow: pip install 'scorl[parquet]'") from error
    source = pyarrow.BufferReader(data)
    try:
        if kind == "Parquet":
            table = parquet.read_table(source)
        else:
            table = (ipc.open_file if data.startswith(b"ARROW1") else ipc.open_stream)(source).read_all()
        table.validate(full=True)  # offsets that lead out of a damaged file end the process otherwise
        rows = table.to_pylist()
        short = [field.name for field in table.schema if pyarrow.types.is_float32(field.type)]
    except Exception as error:  # of a damaged file pyarrow says whatever comes first, SystemError too
        raise UserError(f"{path}: not a readable {kind} file ({error})") from error
    for values in rows:
        values |= {name: shorten(values[name]) for name in short if values[name] is not None}
    return [Row(values, f"{path}, row {number}") for number, values in enumerate(rows, 1)]


def shorten(value: float) -> float:
    """The shortest number that 32 bits hold as this: 0.1, and not 0.10000000149011612."""
    candidates = (float(f"{value:.{digits}g}") for digits in range(6, 10))
    return next((one for one in candidates if struct.pack("f", one) == struct.pack("f", value)), value)
