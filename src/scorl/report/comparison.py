"""What a folder holds beside runs, as plain data: compare.json of `scorl compare`, scale.json of `scorl scale`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from scorl.errors import UserError
from scorl.report.curves import FLIPS
from scorl.run.directory import RunDirectory
from scorl.run.files import Record

__all__ = ["find_runs", "read_comparison", "read_scaling"]

BARS = {
    "Accuracy": {"attempt 1": "accuracy_t1", "attempt 2": "accuracy_t2"},
    "Delta(t1, t2)": {"attempt 2 less attempt 1": "delta"},
    "Flips, of all problems": FLIPS,
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
    arms = _take_object(found.get("arms"))
    if not arms or not all(isinstance(arm, dict) for arm in arms.values()):
        raise UserError(f"{path / 'compare.json'} has no arms; `scorl compare` writes it anew")
    labels = _label_arms(arms)
    metrics, fixed = ({name: _take_object(arm.get(key)) for name, arm in arms.items()} for key in ("metrics", "fixed"))
    charts = [
        _make_chart(
            title, keys, [(labels[name], [of.get(key) for key in keys.values()]) for name, of in metrics.items()]
        )
        for title, keys in BARS.items()
    ]
    shift = [(labels[name], [of.get("fix_rate"), metrics[name].get("fix_rate")]) for name, of in fixed.items() if of]
    charts.append(_make_chart(SHIFT, ("the base's first attempts", "its own"), shift))
    return {"about": _take_object(found.get("about")), "charts": [chart for chart in charts if chart["rows"]]}


def read_scaling(path: Path) -> Record | None:
    """scale.json as curves: {"model", "task", "panels": [{"title", "series": [{"name", "x", "y", "low", "high"}]}]}.

    Values are in percent by the number of responses. None: there is no such file.

    Raises:
        UserError: the file is none of `scorl scale`.
    """
    found = _read(path / "scale.json")
    if found is None:
        return None
    arms = _take_object(found.get("arms"))
    if not arms:
        raise UserError(f"{path / 'scale.json'} has no arms; `scorl scale` writes it anew")
    panels = {"Accuracy": arms, "Less parallel samples": _take_object(found.get("difference"))}
    drawn = [
        {"title": title, "series": [{"name": name} | curve for name, p in of.items() if (curve := _make_curve(p))["x"]]}
        for title, of in panels.items()
    ]
    about = {key: str(found.get(key, "")) for key in ("model", "task")}
    return {**about, "panels": [panel for panel in drawn if panel["series"]]}


def _make_curve(points: Any) -> Record:
    """A curve of {number of responses: {"value", "low", "high"}}; without points where it is none."""
    read = {int(k): _read_interval(p, "value") for k, p in _take_object(points).items() if k.isdecimal()}
    there = sorted((k, interval) for k, interval in read.items() if interval)
    columns = {name: [interval[n] for _, interval in there] for n, name in enumerate(("y", "low", "high"))}
    return {"x": [k for k, _ in there], **columns}


def _make_chart(title: str, keys: Iterable[str], rows: Iterable[tuple[str, list[Any]]]) -> Record:
    bars = [{"label": label, "bars": [_read_interval(m, "mean") for m in measured]} for label, measured in rows]
    return {"title": title, "keys": list(keys), "rows": [row for row in bars if any(row["bars"])]}


def _label_arms(arms: Mapping[str, Any]) -> dict[str, str]:
    """What each arm is called; its name too where two are called the same."""
    labels = {name: str(arm.get("label", name)) for name, arm in arms.items()}
    said = list(labels.values())
    return {name: f"{label} ({name})" if said.count(label) > 1 else label for name, label in labels.items()}


def _read_interval(measured: Any, value: str) -> list[float | None] | None:
    """[value, low, high] in percent, the ends both or neither; None where there is no value."""
    middle, low, high = (_percent(_take_object(measured).get(name)) for name in (value, "low", "high"))
    if middle is None:
        return None
    return [middle, None, None] if low is None or high is None else [middle, low, high]


def _percent(share: Any) -> float | None:
    if not isinstance(share, int | float) or not math.isfinite(share):
        return None
    return round(100 * share, 3)


def _take_object(found: Any) -> dict[str, Any]:
    return found if isinstance(found, dict) else {}


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
