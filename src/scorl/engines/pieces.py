"""A response's text in pieces, as fast as it is certain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from scorl.model.chat import Chat

__all__ = ["ShownText", "Watch"]

Watch = Callable[[Sequence[Sequence[int]]], None]
"""Is told, whenever each row has got a token, what was drawn for every request so far."""

UNFINISHED = "\N{REPLACEMENT CHARACTER}"
"""What tokenizers write for a character of which bytes are missing, which the next token may bring."""


@dataclass
class ShownText:
    """The text of a response that is being written, each part of which is shown once.

    It is read anew from all ids, for the text of a token depends on those before it; what may still become another
    character, or a stop string, waits.
    """

    chat: Chat
    show: Callable[[str], None]
    shown: str = field(default="", init=False)

    def grow(self, ids: Sequence[int], ended: bool = False) -> None:
        """Show what is new in the text of these ids, all that were written so far; `ended` says that no more come."""
        text = self.chat.text(ids)
        certain = text if ended else self._settle(text)
        if len(certain) > len(self.shown) and certain.startswith(self.shown):
            self.show(certain[len(self.shown) :])
            self.shown = certain

    def _settle(self, text: str) -> str:
        """The text without an end that may still change."""
        text = text.rstrip(UNFINISHED)
        begun = (n for stop in self.chat.stop_strings for n in range(1, len(stop)) if text.endswith(stop[:n]))
        return text[: len(text) - max(begun, default=0)]
