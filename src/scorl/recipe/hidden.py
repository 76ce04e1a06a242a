"""Recipes without the secrets that somebody has written into them: what cards, loggers and reports show."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from scorl.recipe.yaml_text import to_yaml

__all__ = ["HIDDEN", "hide_in_text", "hide_secrets"]

HIDDEN = "(hidden)"
LOGIN = re.compile(r"(?<=://)[^/\s@]*:[^/\s@]*(?=@)")
"""Name and password in a URL."""
WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
"""Of a key: `judge_api_key` and `judgeApiKey` are three."""
SECRETS = {"password", "passwd", "passphrase", "secret", "secrets", "credential", "credentials", "authorization"}
KEYS = {"key", "keys", "apikey"}
OF_SECRET_KEYS = {"access", "api", "auth", "private", "secret", "signing"}
"""What stands before `key` where no name of a column can be meant, as it is by `answer_key: answer`."""
MARKS = {"pad", "eos", "bos", "unk", "sep", "cls", "mask", "stop", "start", "end", "special", "image", "think"}
"""What stands before `token` where that is one of a vocabulary."""
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
    if SECRETS & {*words}:
        return True
    before = {*words[:-1]}
    if words[-1] == "token":
        return not before & MARKS
    return words[-1] in KEYS and (words[-1] == "apikey" or bool(before & OF_SECRET_KEYS) or not _is_word(text))


def _is_word(text: str) -> bool:
    """Whether it could name a column."""
    return re.fullmatch(r"[A-Za-z_ ]*", text) is not None
