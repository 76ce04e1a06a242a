"""The model that a run started from: what it is called elsewhere, and under which licence."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from scorl.errors import UserError
from scorl.model.gguf_header import read_text_values
from scorl.model.hub import hub_is_reachable
from scorl.model.loading import resolve_model
from scorl.recipe.hidden import hide_secrets
from scorl.recipe.source import load
from scorl.run.directory import RunDirectory
from scorl.text_files import as_path

__all__ = ["BaseModel", "find_base", "redact"]

HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
LICENCE_KEYS = ("license", "license_name", "license_link")
"""Of a model card; the last two go with `license: other`."""
OURS = {"license": "apache-2.0"}
"""Of the models in this package, which are under its own."""
LOCAL = re.compile(r"(~|\.{1,2})?[/\\]|[A-Za-z]:[/\\]")
"""How a path begins that says something of a machine."""


@dataclass(frozen=True)
class BaseModel:
    """A model that others were made from."""

    name: str
    """For people: on the hub, in this package, or of the folder alone."""
    repo_id: str | None = None
    """Its name on the hub, where it came from there."""
    licence: Mapping[str, str] = field(default_factory=dict)
    """As a model card has it; empty where nothing says so."""


def find_base(model: str, ask_hub: bool = False) -> BaseModel:
    """The base of what a recipe calls a model; behind a run stands the model that it started from.

    Args:
        model: `model.path` of a recipe.
        ask_hub: whether a card that no cache has may be asked of the hub.
    """
    path = as_path(model)
    if run := RunDirectory.of_model(model):
        before = str(load(run.path)["model"]["path"])
        if before != model:
            return find_base(before, ask_hub)
    if model.startswith("scorl:"):
        return BaseModel(model, licence=OURS)
    if model.startswith("pypi:") or path.exists():
        return BaseModel(model if model.startswith("pypi:") else path.resolve().name, licence=_local_licence(model))
    if HUB_NAME.fullmatch(model):
        return BaseModel(model, model, _hub_licence(model, ask_hub))
    return BaseModel(redact(model))


def redact(value: Any) -> Any:
    """A part of a recipe without secrets and what its texts say of the machine: of a path its last name is left.

    >>> redact({"path": "/home/me/data/mine.jsonl", "prompt": "a/b or c", "task": "./tasks/own.py:Sums"})
    {'path': 'mine.jsonl', 'prompt': 'a/b or c', 'task': 'own.py:Sums'}
    """
    return _shorten_paths(hide_secrets(value))


def _shorten_paths(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {_shorten_paths(key): _shorten_paths(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_shorten_paths(inner) for inner in value]
    if isinstance(value, str) and "\n" not in value and (LOCAL.match(value) or _is_there(value)):
        return re.split(r"[/\\]", value.rstrip("/\\"))[-1]
    return value


def _is_there(text: str) -> bool:
    try:
        return "/" in text and Path(text).exists()
    except OSError:  # too long for a name
        return False


def _local_licence(model: str) -> dict[str, str]:
    """What a folder's card, or a GGUF file itself, says."""
    try:
        files = resolve_model(model)
    except UserError:
        return {}
    if files.gguf_file:
        said = read_text_values(
            Path(files.path, files.gguf_file), [f"general.{key.replace('_', '.')}" for key in LICENCE_KEYS]
        )
        return {key.removeprefix("general.").replace(".", "_"): value for key, value in said.items()}
    return _read_licence(Path(files.path) / "README.md")


def _hub_licence(name: str, ask: bool) -> dict[str, str]:
    """What the card of a model on the hub says, in the cache or over there."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    cached = try_to_load_from_cache(name, "README.md")
    if isinstance(cached, str):
        return _read_licence(Path(cached))
    if not ask or not hub_is_reachable():
        return {}
    try:
        return _read_licence(Path(hf_hub_download(name, "README.md")))
    except (OSError, ValueError):  # no card, no access, no network
        return {}


def _read_licence(card: Path) -> dict[str, str]:
    from huggingface_hub import ModelCard

    try:
        said = ModelCard.load(card, ignore_metadata_errors=True).data.to_dict()
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return {key: str(said[key]) for key in LICENCE_KEYS if isinstance(said.get(key), str)}
