"""The endpoint that the proxy asks, by the official client; its errors as those of the proxy."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from openai import (
    APIConnectionError,
    APIError,
    APIResponseValidationError,
    APIStatusError,
    APITimeoutError,
    AsyncOpenAI,
    AsyncStream,
    BadRequestError,
    DefaultAsyncHttpxClient,
    UnprocessableEntityError,
)

from scorl.engines.openai.bounds import EndlessAnswerError, bound_async_answers
from scorl.engines.openai.faults import mask, reading_proxies, refused_field
from scorl.engines.openai.reading import Reply, StreamReader, drop_surrogates, read_completion
from scorl.serve.protocol import NoAnswerError
from scorl.serve.settings import ServeSettings

__all__ = ["TokenSum", "Upstream"]

FAULTS = (APIError, ConnectionError, ValueError, RecursionError)
"""What the client raises, before an answer comes and within one, and what reading it does."""


@dataclass
class TokenSum:
    """Tokens as the upstream counts them; None: it did not say so of every question."""

    prompt: int | None = 0
    completion: int | None = 0

    def add(self, reply: Reply) -> None:
        """Those of one more question."""
        prompt, completion = reply.prompt_tokens, reply.completion_tokens
        if prompt is None or completion is None or self.prompt is None or self.completion is None:
            self.prompt = self.completion = None
            return
        self.prompt += prompt
        self.completion += completion

    def as_dict(self) -> dict[str, int] | None:
        """In the protocol's words."""
        if self.prompt is None or self.completion is None:
            return None
        total = self.prompt + self.completion
        return {"prompt_tokens": self.prompt, "completion_tokens": self.completion, "total_tokens": total}


class Upstream:
    """An endpoint that speaks OpenAI's protocol."""

    def __init__(self, settings: ServeSettings) -> None:
        with reading_proxies():
            http_client = DefaultAsyncHttpxClient(event_hooks={"response": [bound_async_answers()]})
        self.client = AsyncOpenAI(
            api_key=settings.upstream_key or "none",  # the client wants one, and many servers do not
            base_url=settings.upstream,
            timeout=settings.timeout,
            max_retries=2,
            http_client=http_client,
        )
        self._key, self._timeout = settings.upstream_key, settings.timeout
        self._takes_stream_options = True

    async def models(self) -> list[dict[str, Any]]:
        """Those that it serves.

        Raises:
            NoAnswerError: it does not say.
        """
        try:
            # By way of JSON, in which no number is NaN and no text half a character.
            async with asyncio.timeout(self._timeout):
                listed = (await self.client.models.list()).data
            return [json.loads(model.model_dump_json(warnings=False)) for model in listed]
        except (*FAULTS, TimeoutError) as error:
            raise self._refuse_for(error) from None
        except (AttributeError, TypeError):
            raise self._refuse_for(ValueError("no list of models")) from None

    async def ask(
        self, model: str, messages: Sequence[Any], fields: dict[str, Any], tell: Callable[[str], None] | None = None
    ) -> Reply:
        """One answer; `tell` is told its text in pieces, as they come.

        Raises:
            NoAnswerError: there is none.
        """
        try:
            if tell is not None:
                return await self._stream(model, messages, fields, tell)
            return read_completion(
                await self.client.chat.completions.create(model=model, messages=list(messages), extra_body=fields)
            )
        except FAULTS as error:
            raise self._refuse_for(error) from None

    def _refuse_for(self, error: Exception) -> NoAnswerError:
        refusal = refuse_for(error)
        refusal.message = mask(refusal.message, self._key)
        refusal.code = refusal.code and mask(refusal.code, self._key)
        return refusal

    async def _stream(
        self, model: str, messages: Sequence[Any], fields: dict[str, Any], tell: Callable[[str], None]
    ) -> Reply:
        reader = StreamReader()
        async with await self._open_stream(model, messages, fields) as stream:
            async for chunk in stream:
                if piece := reader.read(chunk):
                    tell(piece)
        return reader.end()

    async def _open_stream(self, model: str, messages: Sequence[Any], fields: dict[str, Any]) -> AsyncStream[Any]:
        """A stream that ends with the usage, unless the upstream once refused to be asked for it."""
        usage = {"stream_options": {"include_usage": True}} if self._takes_stream_options else {}
        try:
            return await self.client.chat.completions.create(
                model=model, messages=list(messages), stream=True, extra_body=fields | usage
            )
        except (BadRequestError, UnprocessableEntityError) as error:
            if not usage or refused_field(error) != "stream_options":
                raise
            self._takes_stream_options = False
            return await self._open_stream(model, messages, fields)


def refuse_for(error: Exception) -> NoAnswerError:
    """One of `FAULTS` as the proxy's own; what it says of the proxy's key is not passed on."""
    if isinstance(error, (APITimeoutError, TimeoutError)):
        return NoAnswerError(504, "the upstream did not answer in time", kind="timeout_error")
    if isinstance(error, EndlessAnswerError) or isinstance(error.__cause__, EndlessAnswerError):
        return NoAnswerError(502, "the upstream's answer does not end", kind="upstream_error")
    if isinstance(error, APIConnectionError):
        return NoAnswerError(502, "the upstream cannot be reached", kind="upstream_error")
    if isinstance(error, (ValueError, RecursionError, APIResponseValidationError)):
        message = "the upstream answered with something else than OpenAI's protocol has"
        return NoAnswerError(502, message, kind="upstream_error")
    if not isinstance(error, APIStatusError):
        return NoAnswerError(502, "the upstream broke off its answer", kind="upstream_error")
    if error.status_code in (401, 403):
        return NoAnswerError(502, "the upstream does not take the key of this proxy", kind="upstream_error")
    said = error.body.get("message") if isinstance(error.body, dict) else None
    message = (
        f"the upstream says: {drop_surrogates(str(said))}"
        if said
        else f"the upstream answered with status {error.status_code}"
    )
    if error.status_code == 429:
        asked = error.response.headers.get("retry-after", "")
        retry_after = asked if re.fullmatch(r"[0-9.]{1,9}", asked) else "1"
        return NoAnswerError(429, message, kind="rate_limit_error", retry_after=retry_after)
    if error.status_code < 500:
        code = getattr(error, "code", None)
        return NoAnswerError(error.status_code, message, code=drop_surrogates(code) if isinstance(code, str) else None)
    return NoAnswerError(502, message, kind="upstream_error")
