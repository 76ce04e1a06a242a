"""The evaluations of a run: what evaluation.json holds, and what is left of it where a run resumes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scorl.errors import UserError
from scorl.run.files import Record, read_json

__all__ = ["cut_evaluations", "read_evaluations"]


def read_evaluations(file: Path) -> dict[str, Any]:
    """The latest evaluation of each split, with the history of all; none where the file is not there.

    Raises:
        UserError: the file holds something else.
    """
    evaluations: dict[str, Any] = read_json(file)
    if not isinstance(evaluations, dict) or not all(map(_is_evaluation, evaluations.values())):
        raise UserError(f"{file} holds no evaluations (docs/run-directory.md): move it away, and the run does without")
    return evaluations


def cut_evaluations(evaluations: Mapping[str, Any], updates: int) -> dict[str, Any]:
    """Those after at most so many updates."""
    earlier = {split: _latest_until(updates, latest["history"]) for split, latest in evaluations.items()}
    return {split: latest for split, latest in earlier.items() if latest}


def _latest_until(updates: int, history: Sequence[Record]) -> Record | None:
    earlier = [entry for entry in history if entry["step"] <= updates]
    return {**earlier[-1], "history": earlier} if earlier else None


def _is_evaluation(latest: Any) -> bool:
    return isinstance(latest, dict) and isinstance(latest.get("history"), list)
