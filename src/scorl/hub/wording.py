"""How a model is asked for another attempt, as an evaluation has written it down."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scorl.model.template import BOS, STOP_STRINGS
from scorl.tasks.turns import TURNS, Turn

__all__ = ["find_messages", "find_stop_strings", "find_turns"]


def find_messages(task_settings: Mapping[str, Any]) -> list[str | None] | None:
    """What the user says in `find_turns`; None within: the question again."""
    turns = find_turns(task_settings)
    return None if turns is None else [turn.message for turn in turns]


def find_turns(task_settings: Mapping[str, Any], attempts: int = 2) -> tuple[Turn, ...] | None:
    """What follows the first attempt, up to another one.

    None: a task that was made in Python has written nothing down.
    """
    correction = task_settings.get("correction")
    turns = dict(task_settings.get("turns") or {"name": "correction"})
    kind = TURNS.get(turns.pop("name", "correction"))
    if kind is None or not isinstance(correction or turns.get("correction"), str):
        return None
    return kind(**turns)(str(correction), attempts)


def find_stop_strings(folder: Path, wanted: Sequence[str] | None) -> list[str]:
    """The texts that end a response of the model in a folder, those of its generation config included.

    Args:
        folder: of a Hugging Face model.
        wanted: `model.stop_strings` of the recipe.
    """
    template, generation = folder / "chat_template.jinja", folder / "generation_config.json"
    listed = json.loads(generation.read_bytes()).get("stop_strings") if generation.is_file() else None
    own = STOP_STRINGS.get(template.read_text(encoding="utf-8").removeprefix(BOS)) if template.is_file() else None
    texts = [listed] if isinstance(listed, str) else list(listed or ())
    return list(dict.fromkeys([*(([own] if own else []) if wanted is None else wanted), *texts]))
