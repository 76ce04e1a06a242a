"""What servers answer, whole or streamed, as the engine and `scorl serve` read it alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Reply", "StreamReader", "drop_surrogates", "read_completion"]

ODD = (AttributeError, KeyError, TypeError)
"""What reading raises where an answer has another shape: the client takes any JSON for one."""
MOST_TOKENS = 2**53
"""Of one answer; larger numbers are none that JSON's readers agree on."""


@dataclass(frozen=True)
class Reply:
    """What a server says to one question."""

    text: str
    finish: str = "stop"
    """The finish_reason, as it came."""
    refused: bool = False
    """The model refused; the text says so in its words."""
    prompt_tokens: int | None = None
    """As the server counts; None: it does not say."""
    completion_tokens: int | None = None


def read_completion(completion: Any) -> Reply:
    """A completion that came whole.

    Raises:
        ValueError: it is something else; HTML is a text to the client.
    """
    try:
        choice = completion.choices[0]
        text, refused = _read_words(choice.message)
        return _reply(text, choice.finish_reason, refused, getattr(completion, "usage", None))
    except (*ODD, IndexError):
        raise ValueError(_describe_other(completion)) from None


class StreamReader:
    """Puts the chunks of a stream together."""

    def __init__(self) -> None:
        self._pieces = list[str]()
        self._refused, self._finish, self._usage = False, None, None

    def read(self, chunk: Any) -> str:
        """The text of one more chunk; empty: it has none.

        Raises:
            ValueError: it is something else.
        """
        self._usage = getattr(chunk, "usage", None) or self._usage
        try:
            for choice in (getattr(chunk, "choices", None) or ())[:1]:
                self._finish = choice.finish_reason or self._finish
                piece, refused = _read_words(choice.delta)
                self._refused |= refused
                self._pieces.append(piece)
                return piece
        except ODD:
            raise ValueError(f"a stream with something else in it: {chunk!r}") from None
        return ""

    def end(self) -> Reply:
        """All of it.

        Raises:
            ConnectionError: it broke off: no finish_reason came.
            ValueError: it was none.
        """
        text = "".join(self._pieces)
        if self._finish is None and not text:
            raise ValueError("the stream has no answer in it")
        if self._finish is None:
            raise ConnectionError("the stream ended without a finish_reason")
        return _reply(text, self._finish, self._refused, self._usage)


def drop_surrogates(text: str) -> str:
    """Text that can be sent again: a server may cut a character in two."""
    return text.encode("utf-8", "replace").decode()


def _read_words(message: Any) -> tuple[str, bool]:
    """The text of a message or of a piece of one, and whether it is a refusal."""
    refusal = getattr(message, "refusal", None)
    return drop_surrogates(_join_text(message.content) or refusal or ""), bool(refusal)


def _join_text(content: Any) -> str:
    """An answer's text: what is thought apart from it does not count, in a field or in a part of its own."""
    if isinstance(content, list):
        return "".join(part["text"] or "" for part in content if part["type"] == "text")
    return content or ""


def _reply(text: str, finish: Any, refused: bool, usage: Any) -> Reply:
    counts = (_count(usage, "prompt_tokens"), _count(usage, "completion_tokens"))
    return Reply(text, drop_surrogates(finish) if isinstance(finish, str) else "stop", refused, *counts)


def _count(usage: Any, name: str) -> int | None:
    tokens = getattr(usage, name, None)
    return tokens if type(tokens) is int and 0 <= tokens <= MOST_TOKENS else None


def _describe_other(completion: Any) -> str:
    """What stands in the place of a completion."""
    if isinstance(completion, str):
        return completion or "an empty answer"
    error = getattr(completion, "error", None)  # some gateways answer 200 with an error in it
    return f"an answer without choices: {error or completion!r}"
