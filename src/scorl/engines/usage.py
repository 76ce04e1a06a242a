"""What answers from elsewhere took: what an engine counts that is paid for by the request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

__all__ = ["Metered", "Usage", "usage_of"]


@dataclass(frozen=True, slots=True)
class Usage:
    """What all answers of an engine took, whether they were asked for now or stood in its journal."""

    requests: int = 0
    from_journal: int = 0
    """Of the requests those that were answered by an earlier start."""
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    uncounted: int = 0
    """Answers of which the server counted no tokens."""
    seconds: float = 0.0
    """That the answers took, added up over requests under way at once."""
    refusals: int = 0
    truncated: int = 0

    def __str__(self) -> str:
        """One line for people."""
        tokens = f"{self.prompt_tokens:,} tokens in, {self.completion_tokens:,} out"
        return (
            f"{self.requests:,} requests ({self.from_journal:,} answered before), {self.retries:,} retries, "
            f"{tokens if self.uncounted < self.requests else 'tokens not counted'}, {self.seconds:,.0f} s of answers, "
            f"{self.refusals:,} refused, {self.truncated:,} cut off"
        )


@runtime_checkable
class Metered(Protocol):
    """What an engine has besides whose answers are paid for, and kept for that reason."""

    @property
    def usage(self) -> Usage:
        """What its answers took so far."""
        ...

    def describe(self) -> str:
        """Where it asks, and where the answers are kept, in one line."""
        ...


def usage_of(engine: object) -> Usage | None:
    """What the answers of an engine took; None: it is not paid for by the request."""
    return engine.usage if isinstance(engine, Metered) else None
