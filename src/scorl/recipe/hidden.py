"""Recipes without the secrets that somebody has written into them: what cards, loggers and reports show."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from scorl.recipe.yaml_text import to_yaml

__all__ = ["HIDDEN", "hide_in_text", "hide_secrets"]

HIDDEN = "(hidden)"
QUERIES = (
    *("key", "api_key", "api-key", "apikey", "token", "api_token", "access_token", "auth_token", "hf_token", "auth"),
    *("password", "passwd", "pwd", "secret", "client_secret", "sig", "signature"),
)
"""Names in a URL's query."""
LOGIN = re.compile(
    r"(?<=://)(?!git@)[^/\s@]+(?=@)"
    rf"|(?:{'|'.join(f'(?<=[?&]{name}=)' for name in QUERIES)})[^&#\s]+",
    re.IGNORECASE,
)
"""Name and password in a URL, and what stands behind such a name in its query."""
WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
"""Of a key: `judge_api_key` and `judgeApiKey` are three."""
SECRETS = {"password", "passwd", "passphrase", "pwd", "secret", "secrets", "credential", "credentials", "authorization"}
LAST = {"apikey", "apikeys", "auth", "bearer", "cookie", "cookies"}
"""What a key ends with that is secret; `auth_mode` is none."""
KEYS = {"key", "keys", "token", "tokens"}
"""What may also name a column (`label_key: label1`) or stand in a text (`answer_token: "####"`)."""
BEFORE = {"access", "api", "auth", "bearer", "hf", "judge", "private", "refresh", "signing"}
"""What stands before these where neither is meant."""
RANDOM = re.compile(r"(?=.*[A-Za-z])(?=.*\d)[^\s<>|]{20,}")
"""A text that looks random, and is no `<|reserved_special_token_0|>`."""
PLACES = {"env", "file", "name", "path", "var", "variable"}
"""What a key ends with that says where a secret is."""


def hide_secrets(value: Any) -> Any:
    """A part of a recipe without passwords in URLs, and without texts whose key says that they are secret.

    >>> hide_secrets({"judge_api_key": "sk-short", "max_tokens": 64, "eos_token": "</s>", "answer_key": "answer"})
    {'judge_api_key': '(hidden)', 'max_tokens': 64, 'eos_token': '</s>', 'answer_key': 'answer'}
    """
    if isinstance(value, Mapping):
        return {key: _hide_texts(inner, str(key)) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [hide_secrets(inner) for inner in value]
    return LOGIN.sub(HIDDEN, value) if isinstance(value, str) else value


def hide_in_text(text: str) -> str:
    """A recipe's text; without the secrets, where some are in it."""
    try:
        recipe = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    shown = hide_secrets(recipe)
    return text if shown == recipe else to_yaml(shown)


def _hide_texts(value: Any, key: str) -> Any:
    """A value under a key, whose texts are secret where the key says so."""
    if isinstance(value, Mapping) and _is_secret(key, ""):
        return {inner: _hide_texts(each, key) for inner, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_hide_texts(each, key) for each in value]
    return HIDDEN if isinstance(value, str) and value and _is_secret(key, value) else hide_secrets(value)


def _is_secret(key: str, text: str) -> bool:
    """Whether a text under that key is secret."""
    words = [word.lower() for word in WORDS.findall(key)]
    if not words or words[-1] in PLACES:
        return False
    if SECRETS & {*words} or words[-1] in LAST or words == ["token"]:
        return True
    return words[-1] in KEYS and (not BEFORE.isdisjoint(words[-2:-1]) or RANDOM.fullmatch(text) is not None)
