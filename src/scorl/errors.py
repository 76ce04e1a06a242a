"""The one exception that a user's mistake raises; the command line turns it into exit code 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["UserError", "nearest"]


class UserError(ValueError):
    """The user's input is at fault; the message says what is wrong, where, and what would be right."""


def nearest(word: str, allowed: Iterable[str]) -> str:
    """A hint that names the allowed word nearest to `word` and all allowed words.

    >>> nearest("stepz", ["steps", "samples"])
    "did you mean 'steps'? Allowed: samples, steps"
    """
    names = sorted(allowed)
    close = difflib.get_close_matches(word, names, n=1)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return f"{hint}Allowed: {', '.join(names)}"
