"""Chat completions of one model at one URL, by the official client, in the dialect that its server takes."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Generator, Sequence
from typing import Any

from openai import (
    APIConnectionError,
    APITimeoutError,
    BadRequestError,
    DefaultHttpxClient,
    OpenAI,
    OpenAIError,
    UnprocessableEntityError,
)

from scorl.engines.openai.bounds import bound_answers, bound_time
from scorl.engines.openai.faults import FALLBACKS, explain, reading_proxies, refused_field
from scorl.engines.openai.journal import Answer, Question
from scorl.engines.openai.reading import Reply, StreamReader, read_completion
from scorl.errors import UserError
from scorl.settings import OpenAISettings
from scorl.settings.engines import read_key

__all__ = ["Endpoint"]

FAULTS = (OpenAIError, ConnectionError, ValueError, RecursionError)
"""What the client raises, before an answer comes and within one, and what reading it does."""


class Endpoint:
    """A model behind a URL. Back-off and Retry-After are the client's.

    Raises:
        UserError: the URL is none, or has a secret in it; the key is none, or a proxy of the environment.
    """

    def __init__(self, model: str, settings: OpenAISettings) -> None:
        self.model, self._settings = model, settings
        self._key = read_key("OPENAI_API_KEY")
        named = OpenAISettings(base_url=settings.base_url or os.environ.get("OPENAI_BASE_URL") or None)
        hooks: dict[str, list[Any]] = {"request": [bound_time], "response": [bound_answers]}
        with reading_proxies():
            http_client = DefaultHttpxClient(event_hooks=hooks)
        self._client = OpenAI(
            api_key=self._key or "none",  # the client wants one, and many servers do not
            base_url=named.base_url,
            timeout=settings.timeout,
            max_retries=settings.max_retries,
            http_client=http_client,
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
            return _answer(read_completion(raw.parse()), raw.retries_taken, start)
        except FAULTS as error:
            raise self._explained(error) from None

    def stream(self, question: Question) -> Generator[str, None, Answer]:
        """The answer in pieces of text, and whole as the generator's value.

        Raises:
            UserError: as `ask`.
        """
        start, reader = time.monotonic(), StreamReader()
        try:
            raw = self._create(question, stream=True, stream_options={"include_usage": True})
            for chunk in raw.parse():
                if piece := reader.read(chunk):
                    yield piece
            return _answer(reader.end(), raw.retries_taken, start)
        except FAULTS as error:
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
                unknown = refused_field(error)
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
        return UserError(explain(error, self.url, self.model, self._key, self._models))

    def _models(self) -> Sequence[str]:
        page = self._client.with_options(max_retries=0, timeout=20).models.list()
        return [model.id for model in getattr(page, "data", None) or ()]


def _answer(reply: Reply, retries: int, start: float) -> Answer:
    """A reply as the journal keeps it."""
    return Answer(
        reply.text,
        "length" if reply.finish == "length" else "stop",
        reply.refused or reply.finish == "content_filter",
        reply.prompt_tokens,
        reply.completion_tokens,
        retries,
        round(time.monotonic() - start, 3),
    )
