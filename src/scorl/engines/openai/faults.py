"""What went wrong with an endpoint, as a sentence that says what would be right."""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from openai import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    NotFoundError,
    OpenAIError,
    PermissionDeniedError,
    RateLimitError,
)

from scorl.engines.openai.bounds import EndlessAnswerError
from scorl.errors import UserError, nearest

__all__ = ["FALLBACKS", "explain", "mask", "reading_proxies", "refused_field", "server_words"]

FALLBACKS = {
    "seed": "takes no seed: at a temperature above 0 other answers would be drawn the next time",
    "max_tokens": "",
    "stream_options": "",
}
"""Fields that a server may not take, and what is said where it does not: each is tried once."""

PROXIES = {"all_proxy", "http_proxy", "https_proxy"}
"""Variables that name one, in capitals too."""
LONG = 300
"""The most characters that are repeated of what a server says."""
CONTEXT = ("context length", "context window", "context size", "context_length", "maximum context", "max_model_len")
"""One of them is in what servers say of a conversation that does not fit."""


def explain(error: Exception, url: str, model: str, key: str | None, models: Callable[[], Sequence[str]]) -> str:
    """A sentence about an error of the client, without its key; `models` asks the server what models it has."""
    return mask(_explain(error, url, model, key, models), key)


@contextmanager
def reading_proxies() -> Iterator[None]:
    """Within, a client is made, and reads the proxies and the certificates that the environment names.

    Raises:
        UserError: one is none. A proxy is not repeated, for passwords stand in it.
    """
    try:
        yield
    except OSError as error:  # ssl's are such
        if not os.environ.get("SSL_CERT_FILE"):
            raise
        why = error.strerror or type(error).__name__
        raise UserError(f"SSL_CERT_FILE: no certificates can be read there: {why}") from None
    except Exception as error:  # httpx has several kinds
        names = sorted(name for name in os.environ if name.lower() in PROXIES)
        if not names:
            raise
        why = (
            "a SOCKS proxy needs `pip install socksio`"
            if isinstance(error, ImportError)
            else "this is no address of a proxy; http://127.0.0.1:3128 would be one"
        )
        raise UserError(f"{' or '.join(names)}: {why}") from None


def mask(text: str, key: str | None) -> str:
    """What a server says, without the key that it was sent; before anything is cut off, or half of it may stay."""
    forms = (key, json.dumps(key)[1:-1]) if key else ()
    return functools.reduce(lambda masked, form: masked.replace(form, "***"), forms, text)


def _explain(error: Exception, url: str, model: str, key: str | None, models: Callable[[], Sequence[str]]) -> str:
    match error:
        case APITimeoutError():
            return f"{url} has not answered in time: a longer engine.timeout, or a lower engine.concurrency"
        case EndlessAnswerError() | APIConnectionError(__cause__=EndlessAnswerError()):
            return f"{url} does not answer as a model does: {error.__cause__ or error}"
        case APIConnectionError():
            return f"no server answers at {url}: {error.__cause__ or error}"
        case ConnectionError():
            return f"{url} broke off its answer, of which nothing is kept: {error}"
        case AuthenticationError() | PermissionDeniedError():
            # Not what the server says: hosted ones repeat parts of the key.
            said = "refuses the key in OPENAI_API_KEY" if key else "wants a key: set OPENAI_API_KEY"
            return f"{url} {said} ({error.status_code})"
        case NotFoundError():
            return _explain_not_found(error, url, model, key, models)
        case RateLimitError():
            return f"{url} takes no more requests for now, also after engine.max_retries: {server_words(error, key)}"
        case APIStatusError():
            return f"{url} {_explain_status(error, key)}"
        case _:
            return f"{url} does not speak OpenAI's protocol: {_shorten(str(error), key)}"


def _explain_not_found(
    error: APIStatusError, url: str, model: str, key: str | None, models: Callable[[], Sequence[str]]
) -> str:
    try:
        known = models()
    except OpenAIError:
        known = ()
    if known and model not in known:
        return f"{url} has no model '{model}': {nearest(model, known)}"
    said = server_words(error, key)
    return f"{url} has no chat completions, or no model '{model}' (404: {said}); a URL mostly ends in /v1"


def _explain_status(error: APIStatusError, key: str | None) -> str:
    said = server_words(error, key)
    if error.status_code < 500 and any(word in said.lower() for word in CONTEXT):
        return f"says that a conversation does not fit into the model's context; a lower --max-tokens may help: {said}"
    if error.status_code < 500:
        return f"refuses the request ({error.status_code}): {said}"
    return f"failed ({error.status_code}), also after engine.max_retries: {said}"


def refused_field(error: APIStatusError) -> str:
    """The field of `FALLBACKS` that a server says it does not take; empty: another, or it says something else."""
    said = server_words(error)
    if error.param in FALLBACKS and error.code in ("unsupported_parameter", "unknown_parameter"):
        return error.param
    if "max_completion_tokens" in said and re.search(r"unsupported|not supported|instead", said, re.IGNORECASE):
        return "max_tokens"
    return next((name for name in ("seed", "stream_options") if re.search(rf"\b{name}\b", said)), "")


def server_words(error: APIStatusError, key: str | None = None) -> str:
    """What a server says in its error, shortened: its message alone, never what it was sent, least of all the key."""
    body: Any = error.body
    if isinstance(body, dict):
        body = body.get("message") or body.get("detail") or body.get("error") or body
    if isinstance(body, list):  # of FastAPI: where and what, and the whole request
        body = "; ".join(_field_words(item) for item in body)
    return _shorten(body if isinstance(body, str) else json.dumps(body, default=str), key)


def _field_words(item: Any) -> str:
    return f"{'.'.join(map(str, item.get('loc', ())))}: {item.get('msg')}" if isinstance(item, dict) else str(item)


def _shorten(text: str, key: str | None) -> str:
    if "<html" in text[:1000].lower() or "<!doctype" in text[:1000].lower():
        return "a web page in place of JSON"
    text = " ".join(mask(text, key).split())
    return text if len(text) <= LONG else f"{text[:LONG]}..."
