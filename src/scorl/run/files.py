"""Files: JSON records, one a line; and writing whole or not at all, to the disk itself where it matters."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import shutil
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scorl.errors import DamagedError, UserError
from scorl.trajectory import Credit, Trajectory

__all__ = [
    "Record",
    "check_is_file",
    "check_is_folder",
    "is_draft",
    "read_all",
    "read_json",
    "read_records",
    "read_responses",
    "read_sealed",
    "remove_drafts",
    "replacing",
    "response_records",
    "sync",
    "sync_tree",
    "to_lines",
    "to_sealed",
    "write_whole",
]

SEAL = "sha256"
"""The one key of the first line of a sealed file: of what stands below it."""
GOLD = 500
"""The most characters of a gold answer that are kept with each response: those of programs are long."""
DRAFT = re.compile(r"\.\d+\.draft\..+|\.(step-\d+|best)(\.gone)?\.draft")
"""The names of `replacing` and, of folders, of scorl.run.checkpoint."""
Record = dict[str, Any]
"""One line of a JSONL file."""
NEEDED = ("step", "problem", "sample", "turn", "text", "reward", "finish")
"""What every line of attempts has; older versions wrote no more of what is read."""
TEXT, WHOLE, NUMBER = (str, type(None)), (int,), (int, float, type(None))
KINDS = {
    **dict.fromkeys(("problem", "text"), (str,)),
    **dict.fromkeys(("finish", "question", "gold", "role", "verdict", "wording", "model"), TEXT),
    **dict.fromkeys(("step", "sample", "turn", "branch", "place"), WHOLE),
    **dict.fromkeys(("reward", "tokens", "prompt_tokens", "advantage", "beta", "imitation"), NUMBER),
}
"""Of what type a line of attempts has what it has."""


def response_records(step: int, trajectory: Trajectory, credits: Sequence[Credit] | None = None) -> list[Record]:
    """A trajectory's responses as lines of `attempts/`; without credits (an evaluation) the credit's keys are null."""
    records = []
    attempt = -1
    for place, response in enumerate(trajectory.responses):
        attempt += response.role == "attempt"
        verdict, credit = response.verdict, credits[place] if credits else None
        record = {
            "step": step,
            "problem": trajectory.problem.id,
            "sample": trajectory.sample,
            "turn": attempt,
            "prompt_tokens": len(response.prompt_ids) if response.counted is None else None,
            "tokens": response.tokens,
            "text": response.text,
            "reward": verdict and verdict.reward,
            "finish": response.finish,
            "policy": response.policy,
            "advantage": credit and credit.advantage,
            "beta": credit and credit.beta,
            "imitation": credit and credit.imitation,
            "verdict": verdict and verdict.outcome,
            "reason": verdict and verdict.reason,
            "answer": verdict and verdict.answer,
            "question": trajectory.problem.prompt[-1]["content"],
            "gold": str(trajectory.problem.answer)[:GOLD],
            "branch": trajectory.branch,
            "place": place,
            "role": response.role,
            "offline": response.offline,
        }
        records.append(record)
    return records


def read_records(file: Path, whole: bool = False) -> Iterator[Record]:
    """The JSON objects of a file, one a line.

    Args:
        file: of them.
        whole: whether it was written in one go; else a last line that is still being written is left out.

    Raises:
        UserError: a line is no JSON object, or a file that ends in .gz is damaged.
    """
    try:
        with file.open("rb") as handle:
            packed = file.suffix == ".gz"
            if packed and not handle.peek(1):  # which gzip takes for whole
                raise EOFError("it is empty")
            yield from _read_lines(gzip.GzipFile(fileobj=handle) if packed else handle, file, whole)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{file} is no whole gzip file: {error}") from None


def _read_lines(lines: Iterable[bytes], file: Path, whole: bool) -> Iterator[Record]:
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:  # no UTF-8 as well
            if not line.endswith(b"\n") and not whole:
                return
            raise UserError(f"{file}, line {number} is no JSON: {error}") from None
        if not isinstance(record, dict):
            raise UserError(f"{file}, line {number} is no JSON object")
        yield record


def read_responses(file: Path, whole: bool = False) -> Iterator[Record]:
    """As `read_records`, of a file of attempts.

    Raises:
        UserError: a line is no attempt.
    """
    for number, record in enumerate(read_records(file, whole), 1):
        if missing := next((key for key in NEEDED if key not in record), None):
            raise UserError(f"{file} holds no attempts: a line has no `{missing}`")
        there = (key for key in KINDS if key in record)
        if odd := next((key for key in there if not isinstance(record[key], KINDS[key])), None):
            raise UserError(f"{file}, line {number} is no attempt: its `{odd}` is {record[odd]!r:.60}")
        yield record


def check_is_file(path: Path) -> None:
    """Refuse a folder, and a device or a pipe, whose content may have no end, in a file's place.

    Raises:
        UserError: it is there, and none.
    """
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is {'a folder' if path.is_dir() else 'a device'}, and should be a file: move it away")


def check_is_folder(path: Path) -> None:
    """Refuse anything else in a folder's place.

    Raises:
        UserError: it is there, and none.
    """
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file, and should be a folder: move it away")


def read_all(file: Path) -> list[Record]:
    """As `read_records`; none where the file is not there.

    Raises:
        UserError: a line is no JSON object, or it is no file.
    """
    check_is_file(file)
    return list(read_records(file)) if file.exists() else []


def read_sealed(file: Path) -> list[Record] | None:
    """The records of `to_sealed`; of a file of before, which has no seal, those of `to_lines`; None: it is not there.

    Raises:
        DamagedError: it is not what was written.
        UserError: it is no file, or cannot become one.
    """
    for folder in (file.parent.parent, file.parent):
        check_is_folder(folder)
    check_is_file(file)
    if not file.exists():
        return None
    head, _, body = file.read_bytes().partition(b"\n")
    try:
        first = json.loads(head)
        if isinstance(first, dict) and first.keys() == {SEAL}:
            if first[SEAL] != hashlib.sha256(body).hexdigest():
                raise DamagedError(f"{file} has changed (SHA-256)")
            return [json.loads(line) for line in body.splitlines()]
        return list(read_records(file, whole=True))
    except DamagedError:
        raise
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{file} is damaged: {error}") from None


def read_json(file: Path, advice: str) -> Any:
    """What a JSON file holds; an empty dict where it is not there.

    Raises:
        UserError: it is no JSON; `advice` says what to do then.
    """
    check_is_file(file)
    try:
        return json.loads(file.read_bytes()) if file.exists() else {}
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is no JSON ({error}): {advice}") from None


def to_lines(records: Iterable[Record]) -> str:
    """What `read_records` reads."""
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def to_sealed(records: Iterable[Record]) -> str:
    """The lines of records below a checksum of them."""
    lines = to_lines(records)
    return to_lines([{SEAL: hashlib.sha256(_encode(lines)).hexdigest()}]) + lines


def _encode(text: str) -> bytes:
    """A lone surrogate as its escape, which JSON understands."""
    return text.encode(errors="backslashreplace")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A draft beside `path`, which takes its place when the block ends well and is gone when not."""
    draft = path.with_name(f".{os.getpid()}.draft.{path.name}")
    try:
        yield draft
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def write_whole(path: Path, text: str, durable: bool = True) -> None:
    """Write a file whole or not at all; a lone surrogate is written as its escape.

    Args:
        path: of the file, which is compressed if it ends in .gz.
        text: all of it.
        durable: whether it survives a power cut from now on, which takes the disk some milliseconds.
    """
    data = _encode(text)
    with replacing(path) as draft:
        draft.write_bytes(gzip.compress(data, 6, mtime=0) if path.suffix == ".gz" else data)
        if durable:
            sync(draft)
    if durable:
        sync(path.parent)


def is_draft(path: Path) -> bool:
    """Whether a kill left this of something that was being written; other hidden files are somebody's own."""
    return DRAFT.fullmatch(path.name) is not None


def remove_drafts(folder: Path) -> None:
    """Delete what kills left half-written in a folder, where nobody else writes."""
    for draft in filter(is_draft, list(folder.glob(".*"))):
        if draft.is_dir() and not draft.is_symlink():
            shutil.rmtree(draft)
        else:
            draft.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Have the disk keep a file's content, or the names in a folder, before anything that follows from it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """`sync` of a folder with everything in it."""
    for path in folder.rglob("*"):
        sync(path)
    sync(folder)
