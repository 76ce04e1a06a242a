"""Rows from files as people have them, and from the hub.

JSONL, JSON, CSV and TSV, Parquet and Arrow, compressed by gzip or not, folders of these by split, and what `datasets`
writes with `save_to_disk`.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from scorl.errors import UserError, nearest
from scorl.text_files import decode_text

__all__ = ["Row", "column", "load_hub_rows", "read_rows", "read_splits"]

ENDINGS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow")
"""Of the files of a folder that are read; `.gz` may follow."""
SPLIT = re.compile(r"(train|test|validation)(?![A-Za-z0-9])")
"""How a file's name says its split: train.jsonl, train-00000-of-00002.parquet."""
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
HOLDERS = ("data", "rows", "examples")
"""Under what a JSON file that is one object may have its list of rows."""


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
        if not isinstance(value, Mapping) or key not in value:
            within = f" in '{name.rpartition('.')[0]}'" if value is not row.values else ""
            found = ", ".join(map(str, value)) if isinstance(value, Mapping) else f"none, but {value!r:.60}"
            raise UserError(f"{row.where}: no column '{key if within else name}'{within}; the columns are: {found}")
        value = value[key]
    return value


def read_rows(path: str | Path) -> list[Row]:
    """The rows of a file; of a folder those of its split `train`, or of its only one.

    Raises:
        UserError: no such file, no rows, or a line that cannot be read.
    """
    splits = read_splits(path)
    if "train" not in splits and len(splits) > 1:
        raise UserError(f"{path}: has the splits {', '.join(splits)}, and none of them is 'train'")
    return splits.get("train") or next(iter(splits.values()))


def read_splits(path: str | Path, config: str | None = None) -> dict[str, list[Row]]:
    """The rows of a file (as the split `train`), or of a folder or a data set on the hub by split.

    Args:
        path: of a file or a folder, or a name on the hub.
        config: of a data set on the hub that has several.

    Raises:
        UserError: there is nothing of the kind, it has no rows, or it cannot be read.
    """
    place = Path(path).expanduser()
    if place.is_dir():
        splits = read_folder(place)
    elif place.is_file():
        splits = {"train": read_file(place)}
    else:
        splits = load_hub_splits(str(path), config)
    for name, rows in splits.items():
        if not rows:
            raise UserError(f"{path}: the file has no rows" if len(splits) == 1 else f"{path}: '{name}' has no rows")
    return splits


def read_folder(folder: Path) -> dict[str, list[Row]]:
    """The rows of a folder by split: of `save_to_disk`, or files named after their splits, or one file."""
    if (folder / "dataset_dict.json").is_file():
        names = json.loads((folder / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
        return {name: read_saved(folder / name) for name in names}
    if (folder / "state.json").is_file():
        return {"train": read_saved(folder)}
    files = [file for place in (folder, folder / "data") if place.is_dir() for file in sorted(place.iterdir())]
    files = [file for file in files if file.name.removesuffix(".gz").endswith(ENDINGS)]
    if len(files) == 1:
        return {"train": read_file(files[0])}
    splits: dict[str, list[Row]] = {}
    for file in files:
        if named := SPLIT.match(file.name):
            splits.setdefault(named[1], []).extend(read_file(file))
    if "train" not in splits:
        names = ", ".join(sorted(entry.name for entry in folder.iterdir())[:10]) or "nothing"
        raise UserError(f"{folder}: a folder without a file of the split train; name one of its files: {names}")
    return splits


def read_saved(folder: Path) -> list[Row]:
    """The rows of a data set as `Dataset.save_to_disk` writes it."""
    if not (folder / "state.json").is_file():
        raise UserError(f"{folder}: the folder of a split that save_to_disk wrote is not there, or not whole")
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    return [row for part in state["_data_files"] for row in read_file(folder / part["filename"])]


def read_file(path: Path) -> list[Row]:
    """The rows of one file, by its first bytes and its ending."""
    try:
        data = path.read_bytes()
        if data.startswith(b"\x1f\x8b"):
            data = gzip.decompress(data)
    except (EOFError, OSError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet") or data.startswith(b"PAR1"):
        return read_table(data, path, "Parquet")
    if name.endswith(".arrow") or data.startswith(b"ARROW1"):
        return read_table(data, path, "Arrow")
    text = decode_text(data, path)
    if name.endswith((".csv", ".tsv")):
        return list(read_csv(text, path, "\t" if name.endswith(".tsv") else None))
    return read_json(text, path)


def read_json(text: str, path: Path) -> list[Row]:
    """The rows of a JSONL file, in which blank lines are skipped, or of a JSON list (alone, or in an object)."""
    opening = text.lstrip()[:1]
    if opening == "[":
        return read_list(parse(text, str(path)), path)
    lines = [(f"{path}, line {number}", line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if opening == "{" and (len(lines) == 1 or lines[0][1].strip() == "{"):
        whole = parse(text, lines[0][0] if len(lines) == 1 else str(path))
        held = [whole[key] for key in HOLDERS if isinstance(whole.get(key), list)]
        return read_list(held[0], path) if held else [Row(whole, lines[0][0])]
    return [as_row(parse(line, where), where) for where, line in lines]


def read_list(entries: Sequence[Any], path: Path) -> list[Row]:
    """The rows of a JSON list."""
    return [as_row(entry, f"{path}, entry {number}") for number, entry in enumerate(entries, 1)]


def parse(text: str, where: str) -> Any:
    """JSON as values."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}" if "\n" in text.strip() else f"column {error.colno}"
        raise UserError(f"{where}: not valid JSON ({error.msg} at {place})") from error
    except RecursionError as error:
        raise UserError(f"{where}: nested too deeply") from error


def as_row(values: Any, where: str) -> Row:
    """An object of JSON as a row."""
    if not isinstance(values, dict):
        raise UserError(f'{where}: not a JSON object; each line must be one, {{"column": value, ...}}')
    return Row(values, where)


def read_csv(text: str, path: Path, delimiter: str | None) -> Iterator[Row]:
    """The rows of a CSV file, whose first line names the columns; every value is a text."""
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
            elif len(fields) != len(names):
                raise UserError(f"{where}: {len(fields)} values for {len(names)} columns: {', '.join(names)}")
            else:
                yield Row(dict(zip(names, fields, strict=True)), where)
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
        rows = table.to_pylist()
        short = [field.name for field in table.schema if pyarrow.types.is_float32(field.type)]
    except (OSError, ValueError) as error:  # pyarrow's own exceptions are both
        raise UserError(f"{path}: not a readable {kind} file ({error})") from error
    for values in rows:
        values |= {name: shorten(values[name]) for name in short if values[name] is not None}
    return [Row(values, f"{path}, row {number}") for number, values in enumerate(rows, 1)]


def shorten(value: float) -> float:
    """The shortest number that 32 bits hold as this: 0.1, and not 0.10000000149011612."""
    candidates = (float(f"{value:.{digits}g}") for digits in range(6, 10))
    return next((one for one in candidates if struct.pack("f", one) == struct.pack("f", value)), value)


def load_hub_splits(name: str, config: str | None) -> dict[str, list[Row]]:
    """All splits of a data set on the hub; what cannot be one's name is a file that is not there."""
    if not HUB_NAME.fullmatch(name) or name.removesuffix(".gz").endswith(ENDINGS):
        raise UserError(f"{name}: no such file")
    if find_spec("datasets") is None:
        raise UserError(f"{name}: no such file or folder; if it is a name on the hub: pip install 'scorl[hub]'")
    tables = load_from_hub(name, config, None)
    if "train" not in tables and len(tables) > 1:
        raise UserError(f"{name}: no split 'train' on the hub: {nearest('train', tables)}")
    return {split: number_rows(table, f"{name}, {split}") for split, table in tables.items()}


def load_hub_rows(name: str, config: str | None, split: str) -> list[Row]:
    """The rows of a split of a data set on the Hugging Face hub.

    Raises:
        UserError: the `datasets` package is missing, or the hub does not answer.
    """
    return number_rows(load_from_hub(name, config, split), f"{name}, {split}")


def number_rows(table: Any, where: str) -> list[Row]:
    """Values as rows."""
    return [Row(dict(values), f"{where} row {number}") for number, values in enumerate(table, 1)]


def load_from_hub(name: str, config: str | None, split: str | None) -> Any:
    """What `datasets` loads."""
    advice = "or give the data as files: path=..."
    try:
        load: Callable[..., Any] = import_module("datasets").load_dataset
    except ImportError as error:
        raise UserError(f"{name} from the hub needs: pip install 'scorl[hub]'; {advice}") from error
    try:
        return load(name, config, split=split)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{name} could not be loaded from the hub ({error}); {advice}") from error
