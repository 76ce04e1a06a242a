"""Evaluations that lie somewhere: in a run, or in the file that `scorl evaluate --out` wrote."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scorl.errors import UserError, nearest
from scorl.recipe.hidden import HIDDEN, hide_secrets
from scorl.run.directory import RunDirectory
from scorl.run.history import has_metrics

if TYPE_CHECKING:
    from scorl.evaluation import Summary

__all__ = ["name_differences", "read_evaluation"]

SETTINGS = {"split", "attempts", "wording", "messages", "temperature", "samples", "max_tokens"}
"""What of two evaluations should be alike, besides the task's settings: each difference is said."""
NEEDED = {"model", "task", "split", "problems", "samples", "temperature", "metrics", "mcnemar_p"}
"""What every evaluation has; older versions wrote no more of what is read here."""


def read_evaluation(path: Path, split: str | None = None) -> Summary:
    """The latest evaluation of a run directory, or the one in a file.

    Args:
        path: of either.
        split: which one of several; None: there is but one.

    Raises:
        UserError: there is none, or several and none is named.
    """
    found = RunDirectory(path).evaluations() if path.is_dir() else _read_file(path)
    if not found:
        raise UserError(f"{path}: there is no evaluation; give a run directory, or what `scorl evaluate --out` wrote")
    if split is None and len(found) > 1:
        raise UserError(f"{path}: has evaluations of several splits; name one with --split: {', '.join(sorted(found))}")
    if not all(map(_is_evaluation, found.values())):
        raise UserError(f"{path} holds no evaluation; `scorl evaluate --out` writes one")
    name = split or next(iter(found))
    if name not in found:
        raise UserError(f"{path}: has no evaluation of the split '{name}': {nearest(name, found)}")
    return dict(found[name])


def name_differences(before: Summary, after: Summary) -> Iterator[str]:
    """What two evaluations do not have in common besides the model, in words.

    Raises:
        UserError: they are of different tasks.
    """
    if before["task"] != after["task"]:
        raise UserError(f"cannot compare an evaluation on {before['task']} with one on {after['task']}")
    yield from _name_changes({key: value for key, value in before.items() if key in SETTINGS}, after)
    old, new = (evaluation.get("task_settings", {}) for evaluation in (before, after))
    yield from _name_changes(old, new, "task.")


def _name_changes(old: Mapping[str, Any], new: Mapping[str, Any], section: str = "") -> Iterator[str]:
    """The keys that both have with other values, of which secrets are not shown."""
    for key, value in old.items():
        if new.get(key, value) != value:
            shown, other = (hide_secrets({key: each})[key] for each in (value, new[key]))
            said = f"{HIDDEN} differs" if shown == other else f"{shown!r:.60} before, {other!r:.60} after"
            yield f"{section}{key}: {said}"


def _read_file(path: Path) -> dict[str, Any]:
    """The evaluations of a file by split."""
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no JSON: {error}") from None
    if _is_evaluation(found):
        return {found["split"]: found}
    return found if isinstance(found, dict) else {"": found}


def _is_evaluation(found: Any) -> bool:
    """Whether it is what `Evaluation.summary` wrote, now or in an older version."""
    return isinstance(found, dict) and found.keys() >= NEEDED and has_metrics(found)
