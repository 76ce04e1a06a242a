"""Stop strings: texts that end a response, as end tokens do; for models that write none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

__all__ = ["StopStrings"]


@dataclass(frozen=True, eq=False)
class StopStrings:
    """A response ends with the token that completes one of them in its text; its text ends before it."""

    strings: tuple[str, ...] = ()
    decode: Callable[[Sequence[int]], str] = field(default=lambda ids: "", repr=False)
    """The ids as a verifier's text, before it is cut."""
    _candidates: dict[int, bool] = field(default_factory=dict, repr=False)
    """By token, whether it may complete one."""

    def are_completed(self, ids: Sequence[int]) -> bool:
        """Whether the last of the ids completes a stop string, where none was complete before it."""
        return bool(self.strings) and self._may_complete(ids[-1]) and self.occur_in(self.decode(ids))

    def occur_in(self, text: str) -> bool:
        """Whether there is one in a text."""
        return any(string in text for string in self.strings)

    def split(self, text: str) -> tuple[str, str, str]:
        """A text before its first stop string, the stop string, and what a token wrote behind it."""
        found = [(text.index(string), -len(string), string) for string in self.strings if string in text]
        if not found:
            return text, "", ""
        start, _, string = min(found)
        return text[:start], string, text[start + len(string) :]

    def _may_complete(self, token: int) -> bool:
        """Whether a token writes the last character of a stop string, so that the whole text need seldom be read."""
        if token not in self._candidates:
            text = self.decode([token, token])  # twice: the first token of a text may lose its leading space
            ends = {string[-1] for string in self.strings} | {"\ufffd"}  # or only a byte of it
            self._candidates[token] = not text or any(end in text for end in ends)
        return self._candidates[token]
