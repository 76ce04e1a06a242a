"""Conversations with a model whose tokens are not known here: an id stands for a whole message."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from scorl.trajectory import Message, user

__all__ = ["MessageDialogue"]


class MessageDialogue:
    """Chat messages as ids, so that `prompt_ids + ids` is the conversation, as with tokens.

    Equal messages have equal ids, which mean something in this process alone.
    """

    def __init__(self) -> None:
        self._messages: list[Message] = []
        self._ids: dict[tuple[str, str], int] = {}

    def prompt(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """An id for each message."""
        return tuple(map(self._intern, messages))

    def follow(
        self, prompt_ids: Sequence[int], sample_ids: Sequence[int], message: str, turn: int = 1
    ) -> tuple[int, ...]:
        """The conversation, and the user's next message."""
        return (*prompt_ids, *sample_ids, self._intern(user(message)))

    def reply(self, text: str) -> tuple[int, ...]:
        """The id of an answer."""
        return (self._intern(Message(role="assistant", content=text)),)

    def text(self, ids: Sequence[int]) -> str:
        """What an answer says."""
        return "".join(message["content"] for message in self.messages(ids))

    def messages(self, ids: Iterable[int]) -> list[Message]:
        """What the ids stand for."""
        return [self._messages[i] for i in ids]

    def _intern(self, message: Message) -> int:
        key = message["role"], message["content"]
        if key not in self._ids:
            self._ids[key] = len(self._messages)
            self._messages.append(Message(role=message["role"], content=message["content"]))
        return self._ids[key]
