"""The report of a run: one self-contained HTML file, readable without a network, in light and in dark.

What stands in it is gathered here, how it looks is in `report.html.j2`, `report.css` and `chart.css`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from scorl.errors import UserError
from scorl.metrics import HEADLINES
from scorl.report.chart import Mark, Series, draw_chart
from scorl.report.svg import Drawing
from scorl.report.table import tabulate_change, tabulate_evaluation
from scorl.report.trajectories import FLIPS, ShownTrajectory, flip_class, gather_trajectories, present
from scorl.run.directory import RunDirectory
from scorl.run.files import Record

__all__ = ["write_report"]

EXAMPLES = 2
"""Trajectories shown of each flip class."""
LATEST = 4
"""Steps, from the newest on, that are searched for them."""

ACCURACIES = {
    "attempt {}": "accuracy_t{}",
    "verification {}": "accuracy_v{}",
    "selective revision": "accuracy_selective",
}
PANELS: tuple[tuple[str, bool, dict[str, str]], ...] = (
    ("Accuracy, %", True, ACCURACIES),
    ("Delta(t1, t2), %", True, {"attempt 2 less attempt 1": "delta"}),
    ("Flips, %", True, {"wrong, then right": "incorrect_to_correct", "right, then wrong": "correct_to_incorrect"}),
    (
        "Answers, %",
        True,
        {"changed": "answer_changed", "cut at the token limit": "truncated", "out of context": "out_of_context"},
    ),
    ("Problems, %", True, {"every advantage 0": "frac_reward_zero_std"}),
    ("KL to the reference", False, {"attempt {}": "kl_t{}", "verification {}": "kl_v{}", "critique {}": "kl_c{}"}),
    ("Loss", False, {"loss": "loss"}),
    ("Gradient norm", False, {"before clipping": "grad_norm"}),
    ("Tokens per step", False, {"tokens": "tokens"}),
    ("Seconds per step", False, {phase: f"seconds.{phase}" for phase in ("sample", "judge", "learn")}),
)
"""Charts of steps.jsonl: title, whether in percent, and the keys by the names of their curves; {}: every number."""


def write_report(path: Path | str) -> Path:
    """Writes the report into a run directory and returns its path; what is not there yet is left out.

    Raises:
        UserError: the directory holds no steps and no evaluations.
    """
    run = RunDirectory(Path(path))
    steps, evaluations = _read_steps(run), run.evaluations()
    if not steps and not evaluations:
        raise UserError(f"{path} is no run directory: it holds neither steps nor evaluations")
    marks = _find_stages(steps)
    page = _load_template().render(
        name=run.path.resolve().name,
        steps=len(steps),
        stages=[name for _, name in marks],
        tables=[_tabulate(split, latest) for split, latest in evaluations.items()],
        held_out=_without_empty(_draw_evaluations(split, latest, marks) for split, latest in evaluations.items()),
        curves=_without_empty(_draw_steps(*panel, steps, marks) for panel in PANELS),
        examples=_choose_examples(run),
        recipe=run.recipe_text(),
    )
    return run.write_report(page)


def _load_template() -> Template:
    return Environment(
        loader=PackageLoader("scorl", "report"),
        autoescape=True,  # whatever the template's name; drawings bring their own markup, by `__html__`
        undefined=StrictUndefined,  # a name that is misspelt is an error, not an empty place
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template("report.html.j2")


def _read_steps(run: RunDirectory) -> list[Record]:
    steps = {step["step"]: step for step in run.steps()}
    return [steps[number] for number in sorted(steps)]


def _find_stages(steps: list[Record]) -> list[Mark]:
    """The first step of every stage and the stage's name."""
    changes = [b for a, b in pairwise(steps) if a["stage"] != b["stage"]]
    return [(step["step"], str(step["stage"])) for step in [*steps[:1], *changes]]


def _tabulate(split: str, latest: Record) -> dict[str, Any]:
    """The latest evaluation beside the first; by itself where there is no other."""
    first = latest.get("history", [latest])[0]
    if first["step"] == latest["step"]:
        return {"title": f"{split}, step {latest['step']}", "tiles": [], "grid": tabulate_evaluation(latest)}
    return {
        "title": f"{split}: step {first['step']} and step {latest['step']}",
        "tiles": list(_make_tiles(first["metrics"], latest["metrics"])),
        "grid": tabulate_change(first, latest),
    }


def _make_tiles(before: Record, after: Record) -> Iterator[dict[str, str]]:
    """The headline figures in percent, with those before."""
    for label, name in HEADLINES.items():
        old, new = before[name]["value"], after[name]["value"]
        if old is not None and new is not None:
            sign = "+z" if name == "delta" else ""
            yield {"label": label, "after": f"{100 * new:{sign}.1f}", "before": f"{100 * old:{sign}.1f}"}


def _draw_evaluations(split: str, latest: Record, marks: list[Mark]) -> Drawing | None:
    history, series = latest.get("history", [latest]), []
    for name, key in _match_keys(ACCURACIES, latest["metrics"]):
        values = [(entry["step"], entry["metrics"][key]) for entry in history if key in entry["metrics"]]
        points = [(step, m["value"]) for step, m in values]
        series.append(Series(name, points, [(step, m["low"], m["high"]) for step, m in values if m["low"] is not None]))
    return draw_chart(f"Accuracy on {split}, %", series, marks, percent=True)


def _draw_steps(
    title: str, percent: bool, keys: dict[str, str], steps: list[Record], marks: list[Mark]
) -> Drawing | None:
    flat = [step | {f"seconds.{phase}": s for phase, s in (step.get("seconds") or {}).items()} for step in steps]
    there = {key: None for step in flat for key in step}
    series = [Series(name, [(step["step"], step.get(key)) for step in flat]) for name, key in _match_keys(keys, there)]
    return draw_chart(title, series, marks, percent)


def _match_keys(keys: Mapping[str, str], there: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The (name, key) of those that are there, whichever numbers stand in place of {}."""
    for name, key in keys.items():
        pattern = re.compile(re.escape(key).replace(r"\{\}", r"(\d+)"))
        for one in there:
            if match := pattern.fullmatch(one):
                yield name.format(*match.groups()), one


def _without_empty(charts: Iterable[Drawing | None]) -> list[Drawing]:
    return [chart for chart in charts if chart]


def _choose_examples(run: RunDirectory) -> list[ShownTrajectory]:
    """A few trajectories of every flip class, the newest first."""
    chosen: dict[str, list[ShownTrajectory]] = {flip: [] for flip in FLIPS}
    for step in reversed(run.attempted_steps()[-LATEST:]):
        for responses in gather_trajectories(run.attempts([step])):
            if (flip := flip_class(responses)) and len(chosen[flip]) < EXAMPLES:
                chosen[flip].append(present(responses))
    return [trajectory for several in chosen.values() for trajectory in several]
