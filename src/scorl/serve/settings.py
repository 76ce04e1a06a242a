"""What the proxy is told when it starts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from scorl.tasks.turns import Turn
from scorl.verifiers.extract_answer import extract_answer

__all__ = ["LOOPBACK", "ServeSettings"]

LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Names of this machine, for itself alone."""


@dataclass(frozen=True)
class ServeSettings:
    """Whom the proxy asks, what it says between attempts, and what it bears."""

    upstream: str
    """The API in front of which it stands, say `http://127.0.0.1:8000/v1`."""
    turns: tuple[Turn, ...]
    """What is said behind the first attempt."""
    model: str | None = None
    """The one model that is served; None: those that the upstream serves."""
    samples: int = 1
    """Conversations for each request, of which the most frequent final answer is returned."""
    find_answer: Callable[[str], str | None] = extract_answer
    """Finds the final answer of a response."""
    name_answer: Callable[[str], str] = str
    """Names it, for the votes: the same for equal answers."""
    upstream_key: str | None = field(default=None, repr=False)
    api_key: str | None = field(default=None, repr=False)
    """What callers have to bring; None: nothing."""
    max_body: int = 1 << 20
    """The longest request, in bytes."""
    patience: float = 30.0
    """Seconds in which a caller has to send the body of a request."""
    timeout: float = 300.0
    """Seconds that an answer may take, all its attempts together."""
    max_concurrency: int = 16
    """Requests at once; others are told to come again."""
    hosts: tuple[str, ...] = LOOPBACK
    """Names under which it may be called: by another one a page in a browser might. `*`: all."""
