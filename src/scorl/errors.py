"""The exceptions that end a command with one clear message: the user's mistakes (exit code 2), the others (1)."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["DamagedError", "GuardError", "PeerLostError", "UserError", "nearest"]


MANY = 24
"""Allowed words that are not listed where one of them is near."""
LONG = 100
"""Characters of a word that are compared."""


class UserError(ValueError):
    """The user's input is at fault; the message says what is wrong, where, and what would be right."""


class DamagedError(UserError):
    """A file that was written whole is not what was written; the message names it and says what is wrong."""


class GuardError(RuntimeError):
    """A run that must not go on; the message says what was seen and what usually causes it."""


class PeerLostError(RuntimeError):
    """Another process of the same run is gone; the message says what was waited for. Never the cause of a failure."""

    exit_code = 75
    """Of the process, by which a launcher tells it from the one that failed first."""


def nearest(word: str, allowed: Iterable[str]) -> str:
    """A hint that names the allowed word nearest to `word` and all allowed words, unless they are many.

    >>> nearest("stepz", ["steps", "samples"])
    "did you mean 'steps'? Allowed: samples, steps"
    """
    names, word = sorted(allowed), word[:LONG]
    close = difflib.get_close_matches(word, names, n=1)
    hint = f"did you mean '{close[0]}'?" if close else ""
    if close and len(names) > MANY:
        return hint
    return f"{hint} Allowed: {', '.join(names)}".lstrip()
