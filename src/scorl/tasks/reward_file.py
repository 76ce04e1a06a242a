"""Where a reward function comes from: a module or a file of the user's; what is wrong there has its file and line."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from scorl.errors import UserError, nearest

__all__ = ["import_function", "tell_failure"]

OWN = Path(__file__).parents[1]
"""The package, whose frames are not where a user looks."""


def import_function(name: str) -> Callable[..., Any]:
    """The function that `module:function` or `file.py:function` names.

    Raises:
        UserError: there is no such module, file or function, or it cannot be imported.
    """
    place, _, function = name.rpartition(":")
    if not place or not function:
        raise UserError(f"verifier '{name}': not of the form module:function or file.py:function")
    module = import_file(Path(place).expanduser()) if place.endswith(".py") else import_module(place)
    found = getattr(module, function, None)
    if not callable(found):
        functions = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise UserError(f"verifier '{name}': {place} has no function '{function}': {nearest(function, functions)}")
    return found  # type: ignore[no-any-return]


def import_module(name: str) -> ModuleType:
    """A module that Python finds."""
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name and name.startswith(error.name):
            raise UserError(f"verifier '{name}': no such module ({error}); a file is named as path/file.py") from error
        raise UserError(tell_failure(f"verifier: the module {name}", error)) from error


def import_file(path: Path) -> ModuleType:
    """A module from a file, once for all functions in it."""
    if not path.is_file():
        raise UserError(f"verifier: no such file: {path}")
    return execute_file(path.resolve(), path.stat().st_mtime_ns)


@lru_cache
def execute_file(path: Path, changed: int) -> ModuleType:
    """A module from a file, known to `sys.modules` so that dataclasses and pickles in it work; it may import those
    beside it, as a script may. `changed` tells versions of the file apart.
    """
    spec = importlib.util.spec_from_file_location(f"scorl_reward_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    folder = str(path.parent.resolve())
    sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise UserError(tell_failure(f"verifier: {path}", error)) from error
    finally:
        sys.path.remove(folder)
        # Last, for imports within functions: nothing of ours may be hidden by what lies beside the file.
        sys.path.append(folder)
    return module


def tell_failure(what: str, error: BaseException) -> str:
    """A sentence about what a user's code raised, with the innermost line of it that is no library's."""
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
