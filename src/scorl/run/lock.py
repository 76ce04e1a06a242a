"""A lock on a folder: one process at a time works there."""

from __future__ import annotations

import errno
import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scorl.errors import UserError
from scorl.run.files import check_is_file, check_is_folder

__all__ = ["exclusive"]


@contextmanager
def exclusive(lock: Path) -> Iterator[None]:
    """Hold the lock, whose folder is made where it is not there.

    Raises:
        UserError: another process holds it, the folder cannot be made, or the file system has no locks.
    """
    check_is_folder(lock.parent)
    check_is_file(lock)
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:  # as /proc says, where nothing can be made
        raise UserError(f"cannot write {lock.parent}: {error.strerror}") from None
    with lock.open("w") as handle:
        try:
            # Not the file but the lock on it says that somebody is at work, so a killed run leaves nothing behind.
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                raise UserError(f"{lock.parent}: another process is at work there") from None
            raise UserError(
                f"{lock.parent}: files cannot be locked there ({error.strerror}); choose another disk"
            ) from None
        yield
