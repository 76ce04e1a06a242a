"""Wordings: what may be said between two attempts, to see how much of a result is the model's and how much the words'.

turns = choose_wordings(task, ["neutral", "placebo"])      # {"neutral": Correction(...), "placebo": Correction(None)}
turns["neutral"](task.correction, attempts=2)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from scorl.errors import UserError, nearest
from scorl.tasks.task import Task
from scorl.tasks.turns import Correction, Turn, Turns
from scorl.text_files import as_path, read_text

__all__ = ["PLACEBO", "WORDINGS", "choose_wordings"]

NEUTRAL, PLACEBO = "neutral", "placebo"
_FORM = "give the final answer in the same form as before"

WORDINGS: Mapping[str, str | None] = {
    NEUTRAL: None,
    "verify_first": (
        "First verify the solution above: go through it step by step, and say of each step whether it is right. "
        f"Only then {_FORM}; change it only if you have found an error."
    ),
    "suggestive": f"That is wrong. Solve the problem again, and {_FORM}.",
    "again": f"Try again, and {_FORM}.",
    PLACEBO: None,
}
"""The panel. `neutral` is the task's own correction message, which says that there might be an error (the paper's);
`placebo` asks the problem once more, with no hint at all: what changes then is sampling, and no correction."""


UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""What PyYAML raises besides its own: of tags that do not fit, of towers."""


@dataclass(frozen=True)
class AskAgain:
    """The problem once more, in its own words."""

    def __call__(self, correction: str, attempts: int) -> tuple[Turn, ...]:
        """One turn for every attempt after the first."""
        return (Turn(None),) * (attempts - 1)


def choose_wordings(task: Task, names: str) -> dict[str, Turns]:
    """The turns of a panel.

    Args:
        task: says what `neutral` is.
        names: `all`, names of `WORDINGS` with commas between them, or a YAML file of `name: message`.

    Raises:
        UserError: there is no such wording or file, or the task's turns are no plain correction.
    """
    if not isinstance(task.between, Correction):
        raise UserError("wordings take the place of a correction message: leave turns.name at correction")
    if names.endswith((".yaml", ".yml")):
        return {name: Correction(text) for name, text in _read(as_path(names)).items()}
    chosen = list(WORDINGS) if names == "all" else [name.strip() for name in names.split(",")]
    for name in chosen:
        if name not in WORDINGS:
            raise UserError(
                f"no wording '{name}': {nearest(name, WORDINGS)}; all takes all of them, and a file like "
                "mine.yaml, of `name: message`, your own"
            )
    return {name: _turns(name, task.between) for name in chosen}


def _turns(name: str, own: Correction) -> Turns:
    if name == PLACEBO:
        return AskAgain()
    return own if name == NEUTRAL else Correction(WORDINGS[name])


def _read(path: Path) -> Mapping[str, str]:
    if not path.is_file():
        raise UserError(f"{path}: there is no such file of wordings")
    try:
        texts = yaml.safe_load(read_text(path))
    except (yaml.YAMLError, *UNREADABLE) as error:
        raise UserError(f"{path}: no YAML: {error}") from None
    if (
        not isinstance(texts, dict)
        or not texts
        or not all(isinstance(text, str) and text.strip() for pair in texts.items() for text in pair)
    ):
        raise UserError(f"{path}: wordings are lines of `name: message`")
    return texts
