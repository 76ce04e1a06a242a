"""Rows from wherever people have them: a file, a folder of files by split or from `save_to_disk`, the hub."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from scorl.errors import UserError, nearest
from scorl.tasks.formats import read_file
from scorl.tasks.rows import Row
from scorl.text_files import as_path, parse_json, read_text

__all__ = ["load_hub_rows", "read_rows", "read_splits"]

ENDINGS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow")
"""Of the files of a folder that are read; `.gz` may follow."""
SPLIT = re.compile(r"(train|test|validation)(?![A-Za-z0-9])")
"""How a file's name says its split: train.jsonl, train-00000-of-00002.parquet."""
T = TypeVar("T")
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def read_rows(path: str | Path, split: str = "train") -> list[Row]:
    """The rows of a file; of a folder those of a split, or of its only one.

    Raises:
        UserError: no such file, no rows, or a line that cannot be read.
    """
    splits = read_splits(path)
    if split not in splits and len(splits) > 1:
        raise UserError(f"{path}: has the splits {', '.join(splits)}, and none of them is '{split}'")
    return splits.get(split) or next(iter(splits.values()))


def read_splits(path: str | Path, config: str | None = None) -> dict[str, list[Row]]:
    """The rows of a file (as the split `train`), or of a folder or a data set on the hub by split.

    Args:
        path: of a file or a folder, or a name on the hub.
        config: of a data set on the hub that has several.

    Raises:
        UserError: there is nothing of the kind, it has no rows, or it cannot be read.
    """
    place = as_path(path)
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
        listed = read_listed(folder / "dataset_dict.json", "splits", str)
        return {name: read_saved(folder / name) for name in listed}
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
    names = [str(part.get("filename")) for part in read_listed(folder / "state.json", "_data_files", dict)]
    for name in names:
        if not as_path(folder / name).is_file():
            raise UserError(f"{folder}: the file {name!r:.60} that state.json names is not there")
    return [row for name in names for row in read_file(folder / name)]


def read_listed(file: Path, key: str, kind: type[T]) -> list[T]:
    """The list under a key of a JSON file that `save_to_disk` wrote."""
    values = parse_json(read_text(file), str(file))
    listed = values.get(key) if isinstance(values, dict) else None
    if not isinstance(listed, list) or not listed or not all(isinstance(one, kind) for one in listed):
        raise UserError(f"{file}: names no '{key}', as save_to_disk writes it")
    return listed


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
    except (ImportError, AttributeError) as error:  # a folder of that name is a module without anything in it
        raise UserError(f"{name} from the hub needs: pip install 'scorl[hub]'; {advice}") from error
    try:
        return load(name, config, split=split)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{name} could not be loaded from the hub ({error}); {advice}") from error
