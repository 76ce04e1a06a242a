"""Rendered text as token ids, and ids as text, each in the one way that a chat uses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scorl.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase as Tokenizer
else:
    Tokenizer = Any

__all__ = ["Encoder"]


@dataclass(frozen=True, eq=False)
class Encoder:
    """A tokenizer beside its model's embedding."""

    tokenizer: Tokenizer
    rows: int | None = None
    """Of the embedding; None: that is not looked at."""

    def encode(self, text: str) -> list[int]:
        """The ids of a text, and nothing added to it.

        Raises:
            UserError: the embedding has no row for one of them.
        """
        # Templates write the beginning-of-sequence token themselves; the tokenizer would write it a second time.
        ids = list(self.tokenizer.encode(text, add_special_tokens=False))
        beyond = next((i for i in ids if self.rows is not None and i >= self.rows), None)
        if beyond is not None:
            raise UserError(
                f"the token {self.tokenizer.convert_ids_to_tokens(beyond)!r} has the id {beyond}, but the embedding of"
                f" '{self.tokenizer.name_or_path}' has {self.rows} rows for {len(self.tokenizer)} tokens: give a chat"
                " template without this token under model.chat_template, or enlarge the embedding (transformers'"
                " resize_token_embeddings)"
            )
        return ids

    def encode_behind(self, head: str, text: str) -> list[int]:
        """The ids of a text as they are behind `head`; by itself where a token would span the two."""
        before, whole = self.encode(head), self.encode(head + text)
        if whole[: len(before)] == before:
            return whole[len(before) :]
        return self.encode(text)

    def find_marker(self, text: str) -> int | None:
        """The first special or added token in the text, but for the runs of white space that some add."""
        added = self.tokenizer.added_tokens_decoder
        markers = {i for i, token in added.items() if token.content.strip(" \t\r\n▁")}
        return next((i for i in self.encode(text) if i in markers), None)

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """The ids as text, with or without special tokens."""
        kept = list(ids)
        return str(
            self.tokenizer.decode(kept, skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False)
        )
