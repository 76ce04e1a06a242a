"""Where commands write: files whole or not at all, tables for terminals and for pipes."""

from __future__ import annotations

import logging
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

import click

from scorl.errors import UserError
from scorl.run.files import replacing
from scorl.run.progress import format_duration
from scorl.text_files import as_message, make_visible

if TYPE_CHECKING:
    from scorl.report.table import Grid

__all__ = [
    "check_folder",
    "check_writable",
    "count_problems",
    "is_stdout",
    "open_output",
    "print_grid",
    "quiet",
    "say",
    "show_traceback",
    "speak_plainly",
    "speak_plainly_in_logs",
]


COLOURED = {"ray"}
"""Libraries that colour their own words in a log."""


@contextmanager
def open_output(path: Path | None) -> Iterator[TextIO]:
    """A text file that becomes `path` when the block ends well and is gone when not; None: stdout.

    What exists and is no file, a pipe or /dev/null say, is written into, as is all below /dev and /proc, whose links
    lead to open files: /dev/stdout is one.
    """
    if path is None or is_stdout(path):
        yield sys.stdout
        return
    check_writable(path)
    path = path if is_special(path) else Path(os.path.realpath(path))  # a link stays, and what it points at is replaced
    if is_special(path):
        with path.open("w", encoding="utf-8", errors="backslashreplace") as handle:
            yield handle
        return
    with replacing(path) as draft, draft.open("w", encoding="utf-8", errors="backslashreplace") as handle:
        yield handle


def say(text: str, err: bool = True) -> None:
    """Print words that others may have written, a server, a data file or a model's folder: no terminal obeys them."""
    click.echo(as_message(text), err=err)


class PlainRecord(logging.LogRecord):
    """A record of a log whose words no terminal obeys: libraries repeat there what a model's config.json says."""

    def getMessage(self) -> str:  # noqa: N802
        """The words, as formatters ask for them."""
        return as_message(super().getMessage())


def speak_plainly_in_logs() -> None:
    """What others wrote stays words in logs too; records of a class of somebody else's stay as they are."""
    before = logging.getLogRecordFactory()
    if not (isinstance(before, partial) and before.func is _make_record):
        logging.setLogRecordFactory(partial(_make_record, before))


def _make_record(before: Callable[..., logging.LogRecord], *given: Any, **how: Any) -> logging.LogRecord:
    record = before(*given, **how)
    if type(record) is logging.LogRecord and str(record.name or "").partition(".")[0] not in COLOURED:
        record.__class__ = PlainRecord
        if record.exc_info:  # formatters take the text that is there
            record.exc_text = make_visible("".join(traceback.format_exception(*record.exc_info)).rstrip("\n"))
    return record


def show_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A traceback on stderr as Python's own, but that a terminal obeys nothing of what is quoted in it."""
    sys.stderr.write(make_visible("".join(traceback.format_exception(kind, error, trace))))


def speak_plainly() -> None:
    """Warnings in one line, each once, without lines of source; and no bars in a pipe, where each step is a line.

    What others wrote stays words in logs and in tracebacks too.
    """
    speak_plainly_in_logs()
    sys.excepthook = show_traceback
    said: set[str] = set()

    def format_warning(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
    ) -> str:
        text = as_message(f"warning: {' '.join(str(message).split())}") + "\n"
        new = text not in said
        said.add(text)
        return text if new else ""

    warnings.formatwarning = format_warning
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")


def quiet() -> None:
    """No bars of transformers, which would tear our own progress apart, and none of its words on long prompts."""
    import torch
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    if not torch.cuda.is_available():  # the kernels that it misses for recurrent layers are for GPUs
        logging.getLogger("transformers.integrations.hub_kernels").setLevel(logging.ERROR)
    # What does not fit is counted, or refused, by `check_context`.
    logging.getLogger("transformers.tokenization_utils_base").addFilter(_is_not_about_length)


def _is_not_about_length(record: logging.LogRecord) -> bool:
    return "sequence length is longer than" not in record.getMessage()


def count_problems() -> Callable[[int, int], None]:
    """A progress that says on stderr how many problems are done, how fast, and how long the rest takes.

    Every two seconds at most, and at the end.
    """
    began = said = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal said
        now = time.monotonic()
        if done < total and now - said < 2:
            return
        said, spent = now, max(now - began, 1e-9)
        left = f", {format_duration(spent / done * (total - done))} left" if 0 < done < total else ""
        print(f"{done}/{total} problems, {done / spent:.2g} a second{left}", file=sys.stderr, flush=True)

    return tell


def check_writable(path: Path | None) -> None:
    """Say at once, before an hour of work, that a file cannot be written.

    Raises:
        UserError: its folder is not there or read-only, or it is a folder itself.
    """
    if path is None or is_special(path):
        return
    folder = Path(os.path.realpath(path)).parent  # of what a link points at
    if not folder.is_dir():
        raise UserError(f"cannot write {path}: there is no folder {folder if path.is_symlink() else path.parent}")
    if path.is_dir():
        raise UserError(f"cannot write {path}: it is a folder")
    check_folder(folder)


def check_folder(folder: Path) -> None:
    """The same of a folder, which need not be there yet.

    Raises:
        UserError: it, or what it would be made in, is a file or read-only.
    """
    there = next(place for place in (folder, *folder.parents) if place.exists())
    if not there.is_dir():
        raise UserError(f"cannot write {folder}: {there} is a file")
    if os.path.realpath(there).split("/")[1:2] in (["proc"], ["sys"]):  # where root may write, and make nothing
        raise UserError(f"cannot write {folder}: {there} is the system's own")
    if not os.access(there, os.W_OK):
        raise UserError(f"cannot write {folder}: {there} is read-only")


def is_special(path: Path) -> bool:
    """Whether it is there, and neither a file nor a folder, or a link of the system's to what is open."""
    return path.exists() and not path.is_dir() and (not path.is_file() or _leads_through_system(path))


def is_stdout(path: Path) -> bool:
    """Whether it is a link of the system's to stdout, whose place in a file would be another if it were opened anew."""
    try:
        return is_special(path) and os.path.samestat(path.stat(), os.fstat(1))
    except OSError:
        return False


def _leads_through_system(path: Path) -> bool:
    """Whether it, or a link on the way from it, stands below /dev or /proc; it exists, so no link leads in a circle."""
    place = Path(os.path.realpath(path.parent)) / path.name
    if place.parts[1:2] in (("dev",), ("proc",)):
        return True
    return place.is_symlink() and _leads_through_system(place.parent / place.readlink())


def print_grid(grid: Grid) -> None:
    """A table on stdout: drawn in a terminal, folded where it is wider than that; Markdown in a pipe."""
    from rich.console import Console

    from scorl.report import fold_columns, to_markdown, to_rich

    console = Console()
    if console.is_terminal:
        for part in fold_columns(grid, console.width):
            console.print(to_rich(part))
    else:
        print(to_markdown(grid), end="")
