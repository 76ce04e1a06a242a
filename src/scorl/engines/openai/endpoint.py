"""Chat completions of one model at one URL, by the official client, in the dialect that its server takes."""

from __future__ import annotations

import os
import re
import time
import warnings
from collections.abc import Generator, Sequence
from typing import Any

from openai import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    BadRequestError,
    OpenAI,
    OpenAIError,
    UnprocessableEntityError,
)

from scorl.engines.openai.faults import explain, server_words
from scorl.engines.openai.journal import Answer, Question
from scorl.errors import UserError
from scorl.settings import OpenAISettings

__all__ = ["Endpoint"]

FALLBACKS = {
    "seed": "takes no seed: at a temperature above 0 other answers would be drawn the next time",
    "max_tokens": "",
    "stream_options": "",
}
"""Fields that a server may not take, and what is said where it does not: each is tried once."""


class Endpoint:
    """A model behind a URL. Back-off and Retry-After are the client's.

    Raises:
        UserError: the URL is none, or has a secret in it.
    """

    def __init__(self, model: str, settings: OpenAISettings) -> None:
        self.model, self._settings = model, settings
        self._key = os.environ.get("OPENAI_API_KEY")
        named = OpenAISettings(base_url=settings.base_url or os.environ.get("OPENAI_BASE_URL") or None)
        self._client = OpenAI(
            api_key=self._key or "none",  # the client wants one, and many servers do not
            base_url=named.base_url,
            timeout=settings.timeout,
            max_retries=settings.max_retries,
        )
        self._refused: set[str] = set()

    @property
    def url(self) -> str:
        """Of the API."""
        return str(self._client.base_url).rstrip("/")

    def check(self) -> None:
        """Whether there is a server at all, asked once: in place of an answer the client would try for a minute.

        Raises:
            UserError: there is none.
        """
        try:
            self._models()
        except APITimeoutError:
            pass
        except APIConnectionError as error:
            raise self._explained(error) from None
        except OpenAIError:
            pass  # it need not list its models

    def ask(self, question: Question) -> Answer:
        """The answer to one question; threads may call this.

        Raises:
            UserError: there is none, and the message says why.
        """
        start = time.monotonic()
        try:
            raw = self._create(question)
            return _read_completion(raw.parse(), raw.retries_taken, time.monotonic() - start)
        except (OpenAIError, ValueError) as error:
            raise self._explained(error) from None

    def stream(self, question: Question) -> Generator[str, None, Answer]:
        """The answer in pieces of text, and whole as the generator's value.

        Raises:
            UserError: as `ask`.
        """
        start = time.monotonic()
        try:
            raw = self._create(question, stream=True, stream_options={"include_usage": True})
            return (yield from _read_stream(raw, start))
        except (OpenAIError, ValueError) as error:
            raise self._explained(error) from None

    def _create(self, question: Question, **streaming: Any) -> Any:
        """The server's response, unread; fields that it does not take are left out from then on."""
        while True:
            fields, refused = self._fields(question) | streaming, frozenset(self._refused)
            for name in refused & fields.keys():
                value = fields.pop(name)
                fields |= {"max_completion_tokens": value} if name == "max_tokens" else {}
            try:
                return self._client.chat.completions.with_raw_response.create(**fields)
            except (BadRequestError, UnprocessableEntityError) as error:
                unknown = _refused_field(error)
                if unknown not in fields:
                    raise
                self._refuse(unknown)

    def _fields(self, question: Question) -> dict[str, Any]:
        seed = {} if question.seed is None else {"seed": question.seed}
        return {
            "model": self.model,
            "messages": question.messages,
            "temperature": question.temperature,
            "max_tokens": question.max_tokens,
            "extra_body": dict(self._settings.extra_body or {}),
            **seed,
        }

    def _refuse(self, name: str) -> None:
        if name not in self._refused and FALLBACKS[name]:
            warnings.warn(f"{self.url} {FALLBACKS[name]}", stacklevel=2)
        self._refused.add(name)

    def _explained(self, error: Exception) -> UserError:
        said = explain(error, self.url, self.model, bool(self._key), self._models)
        return UserError(said.replace(self._key, "***") if self._key else said)

    def _models(self) -> Sequence[str]:
        page = self._client.with_options(max_retries=0, timeout=20).models.list()
        return [model.id for model in getattr(page, "data", None) or ()]


def _refused_field(error: APIStatusError) -> str:
    """The field of `FALLBACKS` that a server says it does not take; empty: another, or it says something else."""
    said = server_words(error)
    if error.param in FALLBACKS and error.code in ("unsupported_parameter", "unknown_parameter"):
        return error.param
    if "max_completion_tokens" in said and re.search(r"unsupported|not supported|instead", said, re.IGNORECASE):
        return "max_tokens"
    return next((name for name in ("seed", "stream_options") if re.search(rf"\b{name}\b", said)), "")


def _read_completion(completion: Any, retries: int, seconds: float) -> Answer:
    """A completion as a journal's answer. The client takes any JSON for one, and HTML for a text."""
    choice = next(iter(getattr(completion, "choices", None) or ()), None)
    if choice is None or choice.message is None:
        raise ValueError(_describe_other(completion))
    message = choice.message
    refusal = getattr(message, "refusal", None)
    text = _join_text(message.content) or refusal or ""
    return _answer(text, choice.finish_reason, bool(refusal), completion.usage, retries, seconds)


def _read_stream(raw: Any, start: float) -> Generator[str, None, Answer]:
    pieces, refused, finish, usage = list[str](), False, None, None
    for chunk in raw.parse():
        usage = getattr(chunk, "usage", None) or usage
        for choice in getattr(chunk, "choices", None) or ():
            finish = choice.finish_reason or finish
            refusal = getattr(choice.delta, "refusal", None)
            refused |= bool(refusal)
            if piece := _without_surrogates(_join_text(choice.delta.content) or refusal or ""):
                pieces.append(piece)
                yield piece
    if finish is None and not pieces:
        raise ValueError("the stream has no answer in it")
    return _answer("".join(pieces), finish, refused, usage, raw.retries_taken, time.monotonic() - start)


def _answer(text: str, finish: str | None, refused: bool, usage: Any, retries: int, seconds: float) -> Answer:
    return Answer(
        _without_surrogates(text),
        "length" if finish == "length" else "stop",
        refused or finish == "content_filter",
        getattr(usage, "prompt_tokens", None),
        getattr(usage, "completion_tokens", None),
        retries,
        round(seconds, 3),
    )


def _join_text(content: Any) -> str:
    """An answer's text: what is thought apart from it does not count, in a field or in a part of its own."""
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content if isinstance(part, dict) and part["type"] == "text")
    return content or ""


def _without_surrogates(text: str) -> str:
    """Text that can be sent again: a server may cut a character in two."""
    return text.encode("utf-8", "replace").decode()


def _describe_other(completion: Any) -> str:
    """What stands in the place of a completion."""
    if isinstance(completion, str):
        return completion or "an empty answer"
    error = getattr(completion, "error", None)  # some gateways answer 200 with an error in it
    return f"an answer without choices: {error or completion!r}"
