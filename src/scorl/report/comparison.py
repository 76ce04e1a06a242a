"""What a folder holds beside runs, as plain data: compare.json of `scorl compare`, scale.json of `scorl scale`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scorl.errors import UserError
from scorl.run.directory import RunDirectory
from scorl.run.files import Record

__all__ = ["find_runs", "read_comparison", "read_scaling"]

BARS = {
    "Accuracy": {"attempt 1": "accuracy_t1", "attempt 2": "accuracy_t2"},
    "Delta(t1, t2)": {"attempt 2 less attempt 1": "delta"},
    "Flips, of all problems": {
        "wrong, then right": "incorrect_to_correct",
        "right, then wrong": "correct_to_incorrect",
    },
}
"""Charts of compare.json: by title the metrics by what they are called."""
SHIFT = "Wrong first attempts that are corrected"


def find_runs(path: Path) -> list[tuple[str, RunDirectory]]:
    """The runs that a folder stands for, by name: itself, or the first seed of each arm of a comparison."""
    if not (path / "compare.json").is_file():
        return [(path.resolve().name, RunDirectory(path))]
    first: dict[str, RunDirectory] = {}
    for folder in sorted(path.glob("*/seed-*/"), key=lambda folder: (folder.parent.name, _number(folder))):
        run = RunDirectory(folder)
        if run.steps() or run.evaluations():
            first.setdefault(folder.parent.name, run)
    return list(first.items())


def read_comparison(path: Path) -> Record | None:
    """compare.json as bars: {"about", "charts": [{"title", "keys", "rows": [{"label", "bars": [[value, low, high]]}]}]}

    Values are in percent; a bar is null where the arm has no such figure. None: there is no such file.

    Raises:
        UserError: the file is no comparison.
    """
    found = _read(path / "compare.json")
    if found is None:
        return None
    arms = found.get("arms")
    if not isinstance(arms, dict):
        raise UserError(f"{path / 'compare.json'} has no arms; `scorl compare` writes it anew")
    charts = [
        _make_chart(
            title, keys, {arm["label"]: [arm["metrics"].get(key) for key in keys.values()] for arm in arms.values()}
        )
        for title, keys in BARS.items()
    ]
    shift = {
        arm["label"]: [arm["fixed"].get("fix_rate"), arm["metrics"].get("fix_rate")]
        for arm in arms.values()
        if arm.get("fixed")
    }
    charts.append(_make_chart(SHIFT, ("the base's first attempts", "its own"), shift))
    return {"about": found.get("about", {}), "charts": [chart for chart in charts if chart["rows"]]}


def read_scaling(path: Path) -> Record | None:
    """scale.json as curves: {"model", "task", "panels": [{"title", "series": [{"name", "x", "y", "low", "high"}]}]}.

    Values are in percent by the number of responses. None: there is no such file.

    Raises:
        UserError: the file is none of `scorl scale`.
    """
    found = _read(path / "scale.json")
    if found is None:
        return None
    arms = found.get("arms")
    if not isinstance(arms, dict):
        raise UserError(f"{path / 'scale.json'} has no arms; `scorl scale` writes it anew")
    differences = found.get("difference")
    panels = {"Accuracy": arms, "Less parallel samples": differences if isinstance(differences, dict) else {}}
    drawn = [
        {"title": title, "series": [{"name": name} | curve for name, p in of.items() if (curve := _make_curve(p))["x"]]}
        for title, of in panels.items()
    ]
    about = {key: str(found.get(key, "")) for key in ("model", "task")}
    return {**about, "panels": [panel for panel in drawn if panel["series"]]}


def _make_curve(points: Any) -> Record:
    """A curve of {number of responses: {"value", "low", "high"}}; without points where it is none."""
    numbered = points.items() if isinstance(points, dict) else ()
    values = {int(k): p for k, p in numbered if k.isdecimal() and isinstance(p, dict) and p.get("value") is not None}
    there = sorted(values.items())
    ends = {name: [_percent(p.get(name)) for _, p in there] for name in ("low", "high")}
    return {"x": [k for k, _ in there], "y": [_percent(p["value"]) for _, p in there], **ends}


def _make_chart(title: str, keys: Any, rows: Mapping[str, list[Any]]) -> Record:
    bars = [{"label": label, "bars": [_make_bar(m) for m in measured]} for label, measured in rows.items()]
    return {"title": title, "keys": list(keys), "rows": [row for row in bars if any(row["bars"])]}


def _make_bar(measured: Mapping[str, Any] | None) -> list[float | None] | None:
    if not measured or measured.get("mean") is None:
        return None
    return [_percent(measured[name]) for name in ("mean", "low", "high")]


def _percent(share: float | None) -> float | None:
    return None if share is None else round(100 * share, 3)


def _read(file: Path) -> dict[str, Any] | None:
    if not file.is_file():
        return None
    try:
        found = json.loads(file.read_bytes())
    except ValueError as error:
        raise UserError(f"{file} is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise UserError(f"{file} is no JSON object")
    return found


def _number(folder: Path) -> int:
    digits = folder.name.removeprefix("seed-")
    return int(digits) if digits.isdecimal() else 0
