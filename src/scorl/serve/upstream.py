"""The endpoint that the proxy asks, by the official client; its errors as those of the proxy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from openai import APIConnectionError, APIError, APIStatusError, APITimeoutError, AsyncOpenAI

from scorl.serve.protocol import NoAnswerError
from scorl.serve.settings import ServeSettings

__all__ = ["Reply", "TokenSum", "Upstream"]


@dataclass
class TokenSum:
    """Tokens as the upstream counts them; None: it did not say so of every question."""

    prompt: int | None = 0
    completion: int | None = 0

    def add(self, usage: Any) -> None:
        """Those of one more question."""
        if usage is None or self.prompt is None or self.completion is None:
            self.prompt = self.completion = None
            return
        self.prompt += usage.prompt_tokens
        self.completion += usage.completion_tokens

    def as_dict(self) -> dict[str, int] | None:
        """In the protocol's words."""
        if self.prompt is None or self.completion is None:
            return None
        total = self.prompt + self.completion
        return {"prompt_tokens": self.prompt, "completion_tokens": self.completion, "total_tokens": total}


@dataclass(frozen=True)
class Reply:
    """What the upstream said to one question."""

    text: str
    finish: str
    usage: Any = field(default=None, repr=False)


class Upstream:
    """An endpoint that speaks OpenAI's protocol."""

    def __init__(self, settings: ServeSettings) -> None:
        self.client = AsyncOpenAI(
            api_key=settings.upstream_key or "none",  # the client wants one, and many servers do not
            base_url=settings.upstream,
            timeout=settings.timeout,
            max_retries=2,
        )

    async def models(self) -> list[dict[str, Any]]:
        """Those that it serves.

        Raises:
            NoAnswerError: it does not say.
        """
        try:
            return [model.model_dump() for model in (await self.client.models.list()).data]
        except APIError as error:
            raise refuse_for(error) from None

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
            said = await self.client.chat.completions.create(model=model, messages=list(messages), extra_body=fields)
        except APIError as error:
            raise refuse_for(error) from None
        if not getattr(said, "choices", None):
            raise NoAnswerError(
                502, "the upstream answered with something else than a completion", kind="upstream_error"
            )
        choice = said.choices[0]
        return Reply(choice.message.content or "", choice.finish_reason or "stop", said.usage)

    async def _stream(
        self, model: str, messages: Sequence[Any], fields: dict[str, Any], tell: Callable[[str], None]
    ) -> Reply:
        text, finish, usage = "", "stop", None
        stream = await self.client.chat.completions.create(
            model=model,
            messages=list(messages),
            stream=True,
            extra_body={**fields, "stream_options": {"include_usage": True}},
        )
        async with stream:
            async for chunk in stream:
                usage = chunk.usage or usage
                for choice in chunk.choices[:1]:
                    finish = choice.finish_reason or finish
                    if piece := choice.delta.content:
                        text += piece
                        tell(piece)
        return Reply(text, finish, usage)


def refuse_for(error: APIError) -> NoAnswerError:
    """An error of the upstream as the proxy's own; what it says of the proxy's key is not passed on."""
    if isinstance(error, APITimeoutError):
        return NoAnswerError(504, "the upstream did not answer in time", kind="timeout_error")
    if isinstance(error, APIConnectionError):
        return NoAnswerError(502, "the upstream cannot be reached", kind="upstream_error")
    if not isinstance(error, APIStatusError):
        return NoAnswerError(502, "the upstream broke off its answer", kind="upstream_error")
    if error.status_code in (401, 403):
        return NoAnswerError(502, "the upstream does not take the key of this proxy", kind="upstream_error")
    said = error.body.get("message") if isinstance(error.body, dict) else None
    message = f"the upstream says: {said}" if said else f"the upstream answered with status {error.status_code}"
    if error.status_code == 429:
        retry_after = error.response.headers.get("retry-after", "1")
        return NoAnswerError(429, message, kind="rate_limit_error", retry_after=retry_after)
    if error.status_code < 500:
        return NoAnswerError(error.status_code, message, code=getattr(error, "code", None))
    return NoAnswerError(502, message, kind="upstream_error")
