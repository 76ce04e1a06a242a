"""The journal: every answer that was paid for, so that none is asked for twice."""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from scorl.errors import UserError
from scorl.trajectory import Finish, Message

__all__ = ["Answer", "Journal", "Question", "default_journal"]

SEEDS = 2**31
"""All servers take so many; some take no more."""


@dataclass(frozen=True, slots=True)
class Question:
    """All that decides an answer, but for who is asked."""

    messages: list[Message]
    temperature: float
    max_tokens: int
    seed: int | None
    """None: a greedy answer, which takes none."""

    @classmethod
    def of(cls, messages: list[Message], temperature: float, max_tokens: int, seed: int) -> Question:
        """With the seed as servers take it."""
        return cls(messages, temperature, max_tokens, seed % SEEDS if temperature > 0 else None)

    def key(self, url: str, model: str, extra_body: Mapping[str, Any] | None) -> str:
        """A hash by which the journal knows the question to this model again."""
        asked = [url, model, self.messages, self.temperature, self.max_tokens, self.seed, extra_body or {}]
        return hashlib.blake2b(json.dumps(asked, sort_keys=True).encode(), digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered, as the journal keeps it."""

    text: str
    finish: Finish
    refusal: bool = False
    """The model refused, or its text was withheld by a filter."""
    prompt_tokens: int | None = None
    """As the server counts; None: it does not say."""
    completion_tokens: int | None = None
    retries: int = 0
    seconds: float = 0.0
    """That the request took, retries and all."""


class Journal:
    """Answers by the hash of their question: a JSONL file to which each is appended as it comes.

    A kill may leave a torn line, also in the middle, where a later start went on behind it. Such a line is left out.

    Raises:
        UserError: the file is something else, or cannot be written, which is said before anything is paid.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        with _keeping(path):
            self._answers = dict(_read(path)) if path.exists() else {}
            path.parent.mkdir(parents=True, exist_ok=True)
            path.open("ab").close()

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, key: str) -> Answer | None:
        """The answer to the question of this hash; None: it was not asked."""
        return self._answers.get(key)

    def add(self, key: str, answer: Answer) -> None:
        """Keep an answer; it is in the file when this returns. Threads may call it.

        Raises:
            UserError: the file can no longer be written.
        """
        line = json.dumps({"key": key, **asdict(answer)}, ensure_ascii=False) + "\n"
        with self._lock:
            with _keeping(self.path), self.path.open("ab+") as handle:
                handle.write((_break_behind_torn_line(handle) + line).encode("utf-8", "backslashreplace"))
            self._answers[key] = answer


def default_journal(url: str, model: str) -> Path:
    """The user's own file for the answers of a model at a URL."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    digest = hashlib.blake2b(f"{url} {model}".encode(), digest_size=4).hexdigest()
    name = re.sub(r"[^\w.-]+", "-", f"{urlsplit(url).netloc}-{model}")[:80]
    return cache / "scorl" / "answers" / f"{name}-{digest}.jsonl"


@contextmanager
def _keeping(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"engine.responses: no answers can be kept in {path}: {error.strerror or error}; name a file that can be "
            "written"
        ) from None


def _break_behind_torn_line(handle: Any) -> str:
    """What ends the line that a kill has left at the end of a file."""
    if not handle.seek(0, os.SEEK_END):
        return ""
    handle.seek(-1, os.SEEK_END)
    return "" if handle.read(1) == b"\n" else "\n"


def _read(path: Path) -> Iterator[tuple[str, Answer]]:
    start, names = b'{"key": "', {field.name for field in fields(Answer)}
    with path.open("rb") as handle:
        for number, line in enumerate(handle, 1):
            if not start.startswith(line.rstrip(b"\n")[: len(start)]):
                raise UserError(
                    f"engine.responses: {path}, line {number}, is no answer of an endpoint; name a file that is not "
                    "there yet, or one that the engine openai has written"
                )
            try:
                record = json.loads(line)
                key = record.pop("key")
                yield key, Answer(**{name: value for name, value in record.items() if name in names})
            except (ValueError, TypeError):
                continue  # torn
