"""OpenAI's chat completions as far as the proxy speaks them: what is read, what is refused, and errors in its shape."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

__all__ = ["ChatRequest", "NoAnswerError", "error_body", "read_request"]


class NoAnswerError(Exception):
    """A request that gets no answer, and why."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        retry_after: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.kind, self.param, self.code = status, message, kind, param, code
        self.retry_after = retry_after


def error_body(refusal: NoAnswerError) -> dict[str, Any]:
    """An error in OpenAI's shape."""
    error = {"message": refusal.message, "type": refusal.kind, "param": refusal.param, "code": refusal.code}
    return {"error": error}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class TextPart(_Strict):
    """A piece of a message."""

    type: Literal["text"]
    text: str


class ChatMessage(_Strict):
    """A message of a conversation in text."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None


class StreamOptions(_Strict):
    """What a stream says besides."""

    include_usage: bool | None = None


Number = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class ChatRequest(_Strict):
    """The body of a request."""

    model: str
    messages: list[ChatMessage] = Field(min_length=1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Literal[1] | None = None
    temperature: Annotated[Number, Field(ge=0, le=2)] | None = None
    top_p: Annotated[Number, Field(gt=0, le=1)] | None = None
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    presence_penalty: Annotated[Number, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[Number, Field(ge=-2, le=2)] | None = None
    response_format: dict[str, Any] | None = None
    reasoning_effort: str | None = None
    user: str | None = None
    # What servers of open models take besides.
    top_k: int | None = None
    min_p: Number | None = None
    repetition_penalty: Number | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    @property
    def conversation(self) -> list[dict[str, Any]]:
        """The messages, each with its text as one."""
        return [
            {**message.model_dump(exclude_none=True), "content": _join(message.content)} for message in self.messages
        ]

    @property
    def sampling(self) -> dict[str, Any]:
        """What is passed on as it came with every question."""
        own = {"model", "messages", "stream", "stream_options", "n", "seed"}
        return self.model_dump(exclude=own, exclude_none=True)

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with the usage."""
        return bool(self.stream_options and self.stream_options.include_usage)


UNSUPPORTED = {
    "tools": "this proxy asks for text twice and calls no tools; ask the upstream for them",
    "functions": "this proxy asks for text twice and calls no functions; ask the upstream for them",
    "tool_choice": "this proxy calls no tools",
    "function_call": "this proxy calls no functions",
    "parallel_tool_calls": "this proxy calls no tools",
    "n": "this proxy returns one choice; `scorl serve --samples K` asks K times, and returns the answer that wins",
    "logprobs": "the answer stands in a conversation that the caller has not seen, so it has no log-probabilities here",
    "top_logprobs": "the answer has no log-probabilities here",
    "audio": "this proxy takes and returns text",
    "modalities": "this proxy takes and returns text",
}
"""Fields of the protocol that are refused unless they ask for nothing, and why."""
NOTHING: tuple[Any, ...] = (None, False, [], {}, 0, ["text"], "none")
"""Values of those fields that ask for nothing."""
IDLE = ("metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention")
"""Fields that concern OpenAI's own service: they are taken and left out."""


def read_request(body: bytes) -> ChatRequest:
    """A request that can be answered.

    Raises:
        NoAnswerError: it is no JSON, a field is wrong or unknown, or it asks for what is not done here.
    """
    try:
        values = TypeAdapter(dict[str, Any]).validate_json(body)
    except ValidationError as error:
        reason = error.errors(include_url=False)[0]["msg"]
        raise NoAnswerError(400, f"the body is no JSON object: {reason}") from None
    for name, reason in UNSUPPORTED.items():
        given = values.get(name)
        if given not in NOTHING and not (name == "n" and given == 1 and type(given) is int):
            raise NoAnswerError(400, f"{name}: {reason}", param=name, code="unsupported_parameter")
    left_out = {*IDLE, *UNSUPPORTED} - {"n"}
    kept = {key: value for key, value in values.items() if value is not None and key not in left_out}
    if isinstance(kept.get("messages"), list):
        kept["messages"] = [_drop_nothing(message) for message in kept["messages"]]
    try:
        request = ChatRequest.model_validate_json(json.dumps(kept, allow_nan=False))
    except ValidationError as error:
        raise _explain(error) from None
    except ValueError:
        raise NoAnswerError(400, "the body has a number that JSON has not: NaN, Infinity, or one too large") from None
    if request.messages[-1].role != "user":
        raise NoAnswerError(400, "messages: the last one has to be the user's", param="messages")
    return request


def _drop_nothing(message: Any) -> Any:
    """A message without fields that say nothing; an assistant's also without the thoughts that this proxy returns."""
    if not isinstance(message, dict):
        return message
    if message.get("role") != "assistant":
        return {key: value for key, value in message.items() if value is not None}
    nothing: tuple[Any, ...] = (None, [], {}, "")
    return {
        key: value
        for key, value in message.items()
        if key != "reasoning_content" and (key == "content" or value not in nothing)
    }


def _explain(error: ValidationError) -> NoAnswerError:
    """The first thing that is wrong with a request."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        return NoAnswerError(400, f"{place}: unknown here", param=place, code="unknown_parameter")
    return NoAnswerError(400, f"{place}: {first['msg'][0].lower()}{first['msg'][1:]}", param=place)


def _join(content: str | list[TextPart]) -> str:
    return content if isinstance(content, str) else "".join(part.text for part in content)
