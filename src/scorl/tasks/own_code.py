"""Code of the user's own, named `module:name` or `file.py:name`; what is wrong there is told with its file and line."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from scorl.errors import UserError, nearest
from scorl.tasks.data import hash_text
from scorl.text_files import as_path

__all__ = ["find_file", "import_named", "is_own_code", "telling_failures"]

OWN = Path(__file__).parents[1]
"""The package, whose frames are not where a user looks."""


def is_own_code(name: str) -> bool:
    """Whether a name is that of code: shipped choices have neither a colon nor an ending."""
    return ":" in name or name.endswith(".py")


def find_file(name: str) -> Path | None:
    """The file that a name of own code begins with; None: it begins with a module."""
    place = name.rpartition(":")[0] or name
    return as_path(place) if place.endswith(".py") else None


def import_named(kind: str, name: str, wanted: str) -> Callable[..., Any]:
    """The function or class that `module:name` or `file.py:name` names.

    Args:
        kind: what it is for, as messages call it: verifier, task.
        name: as a recipe has it.
        wanted: `function` or `class`.

    Raises:
        UserError: there is no such module, file or name, or it cannot be imported.
    """
    what, (place, _, attribute) = f"{kind} '{name}'", name.rpartition(":")
    if not place or not attribute:
        raise UserError(f"{what}: not of the form module:{wanted} or file.py:{wanted}")
    path = find_file(name)
    module = import_module(what, place) if path is None else import_file(what, path)
    found = getattr(module, attribute, None)
    if not callable(found):
        own = {key: value for key, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__}
        known = [key for key, value in own.items() if isinstance(value, type) == (wanted == "class")]
        raise UserError(f"{what}: {place} has no {wanted} '{attribute}': {nearest(attribute, known)}")
    return found  # type: ignore[no-any-return]


def import_module(what: str, name: str) -> ModuleType:
    """A module that Python finds."""
    with telling_failures(f"{what}: the module {name}"):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name and name.startswith(error.name):
                raise UserError(f"{what}: no such module ({error}); a file is named as path/file.py") from error
            raise


def import_file(what: str, path: Path) -> ModuleType:
    """A module from a file, once for all that is in it."""
    if not path.is_file():
        where = (
            ""
            if path.is_absolute()
            else f" in {Path.cwd()}; run the command where it lies, or name it by its whole path"
        )
        raise UserError(f"{what}: no such file: {path}{where}")
    with telling_failures(f"{what}: {path}"):
        return execute_file(path.resolve(), path.stat().st_mtime_ns)


@lru_cache
def execute_file(path: Path, changed: int) -> ModuleType:
    """A module from a file, known to `sys.modules` so that dataclasses and pickles in it work; it may import those
    beside it, as a script may. `changed` tells versions of the file apart.
    """
    spec = importlib.util.spec_from_file_location(f"scorl_own_{path.stem}_{hash_text(str(path))}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    folder = str(path.parent.resolve())
    sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(folder)
        # Last, for imports within functions: nothing of ours may be hidden by what lies beside the file.
        sys.path.append(folder)
    return module


@contextmanager
def telling_failures(what: str) -> Iterator[None]:
    """Own code runs in here: what it raises is the user's mistake, and is told in a sentence.

    Raises:
        UserError: it has raised something; the innermost line of it that is no library's is named.
    """
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(tell_failure(what, error)) from error


def tell_failure(what: str, error: BaseException) -> str:
    """A sentence about what a user's code raised."""
    if isinstance(error, SyntaxError):
        return f"{what} is no Python: {error.msg} ({error.filename}, line {error.lineno})"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not is_foreign(frame.filename)]
    place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"{what} raised {type(error).__name__}: {error}{place}"


def is_foreign(filename: str) -> bool:
    """Whether a file is scorl's, Python's or an installed package's."""
    path = Path(filename)
    installed = any(part in ("site-packages", "dist-packages") for part in path.parts)
    standard = Path(traceback.__file__).parent in path.parents
    return installed or standard or OWN in path.parents or filename.startswith("<")
