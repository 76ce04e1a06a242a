"""The manifest of a checkpoint: its files with sizes and checksums, so that damage to them is noticed.

It is written after all that it lists, with a checksum of itself. A folder without one was not saved by a run, and
cannot be checked.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from scorl.errors import UserError
from scorl.version import __version__

__all__ = [
    "CARD",
    "MANIFEST",
    "TRAINER",
    "check_model_files",
    "dump_manifest",
    "find_damage",
    "read_manifest",
    "write_manifest",
]

TRAINER = "trainer"
"""The folder of a checkpoint for what is not the model's."""
MANIFEST = f"{TRAINER}/manifest.json"
CARD = "README.md"
"""The model card: people write in theirs, so it is in no list of files, and never damaged."""
READ = re.compile(
    r".*\.(safetensors|jinja)|.*config\.json|.*\.index\.json|(added_tokens|special_tokens_map|tokenizer|vocab)\.json"
    r"|tokenizer\.model|merges\.txt"
)
"""The names of files that are read wherever one lies beside those of a list."""
FORMAT = 2
"""Of checkpoints. 1 had the trainer's state in a `state.pt`, and no manifest."""


def write_manifest(folder: Path, training_reward: float | None, recipe: str = "") -> None:
    """List every file of a checkpoint but its card; note the mean reward while it was trained, and by which recipe."""
    files_there = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    names = sorted(name for name in files_there if name != CARD)
    files = {name: {"bytes": (folder / name).stat().st_size, "sha256": sha} for name, sha in _hashes(folder, names)}
    manifest = {
        "format": FORMAT,
        "scorl": __version__,
        "training_reward": training_reward,
        "recipe": recipe,
        "files": files,
    }
    (folder / MANIFEST).write_text(dump_manifest(manifest), encoding="utf-8")


def dump_manifest(manifest: dict[str, Any]) -> str:
    """A manifest as JSON, with a checksum of itself."""
    return json.dumps({**manifest, "sha256": _hash_manifest(manifest)}, indent=1) + "\n"


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """What `write_manifest` wrote; None where there is nothing that can be read as that.

    Raises:
        UserError: a newer scorl wrote it.
    """
    manifest = _read(folder)
    return None if isinstance(manifest, str) else manifest


def _read(folder: Path) -> dict[str, Any] | str:
    """A manifest, or what ails it.

    Raises:
        UserError: a newer scorl wrote it.
    """
    if not (folder / MANIFEST).exists():
        return "is missing"
    if not (folder / MANIFEST).is_file():  # a device may have no end
        return "is no file"
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        # Versions before wrote none; a bit of what is summed up may also be that which makes a format a newer one.
        intact = manifest.pop("sha256", None) in (None, _hash_manifest(manifest))
        newer, reward = manifest["format"] > FORMAT, manifest.get("training_reward")
        readable = isinstance(manifest["files"], dict) and (reward is None or math.isfinite(reward))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return "cannot be read"
    if not intact:
        return "has changed (SHA-256)"
    if newer:
        raise UserError(
            f"{folder}: is in format {manifest['format']} of checkpoints, written by scorl {manifest.get('scorl')}; "
            f"scorl {__version__} reads up to format {FORMAT}. Install the newer one"
        )
    return manifest if readable else "cannot be read"


def _hash_manifest(manifest: dict[str, Any]) -> str:
    """The SHA-256 of what a manifest says, however it is laid out."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def find_damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint's files; None: it is whole.

    Raises:
        UserError: a newer scorl wrote it.
    """
    manifest = _read(folder)
    return f"{MANIFEST} {manifest}" if isinstance(manifest, str) else _compare(folder, manifest["files"])


def check_model_files(folder: Path) -> None:
    """Check a model's files where it is a checkpoint of a run.

    Raises:
        UserError: one of them is damaged.
    """
    if not (folder / MANIFEST).exists():
        return
    if isinstance(manifest := _read(folder), str):
        damage: str | None = f"{MANIFEST} {manifest}"
    else:
        files = {name: file for name, file in manifest["files"].items() if not name.startswith(TRAINER)}
        damage = _compare(folder, files)
    if damage:
        raise UserError(f"{folder}: this checkpoint is damaged: {damage}. Take another one of the run")


def _compare(folder: Path, files: dict[str, Any]) -> str | None:
    """The first difference between files and what a manifest says of them; first what takes no time."""
    try:
        for name, file in files.items():
            if not (folder / name).is_file():
                return f"{name} is missing"
            if (size := (folder / name).stat().st_size) != file["bytes"]:
                return f"{name} has {size:,} bytes, and had {file['bytes']:,}"
        if stray := next(_unlisted(folder, files), None):
            return f"{stray} is none of its files, and would be read: move it away"
        wrong = (name for name, sha in _hashes(folder, files) if sha != files[name]["sha256"])
        return next((f"{name} has changed (SHA-256)" for name in wrong), None)
    except (OSError, KeyError, TypeError) as error:
        return f"{MANIFEST} or a file of it cannot be read ({type(error).__name__}: {error})"


def _unlisted(folder: Path, files: dict[str, Any]) -> Iterator[str]:
    """What lies beside the files of a list and would be read with them, as `cp -r` over a folder leaves it."""
    for place in sorted({folder, *((folder / name).parent for name in files)}):
        names = (path.relative_to(folder).as_posix() for path in sorted(place.iterdir()) if READ.fullmatch(path.name))
        yield from (name for name in names if name not in files)


def _hashes(folder: Path, names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The SHA-256 of each file; several at a time, for hashing is slower than many disks."""

    def hash_file(name: str) -> tuple[str, str]:
        with (folder / name).open("rb") as file:
            return name, hashlib.file_digest(file, "sha256").hexdigest()

    with ThreadPoolExecutor() as threads:
        yield from threads.map(hash_file, names)
