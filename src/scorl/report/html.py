"""The report of a run: one self-contained HTML file, readable without a network, in light and in dark."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any

from scorl.errors import UserError
from scorl.report.curves import Mark, chart
from scorl.report.show import FLIPS, flip_class, heading, judgement, marked, trajectories, visible
from scorl.report.style import STYLE
from scorl.report.table import Grid, before_after_grid, evaluation_grid
from scorl.run.directory import RunDirectory
from scorl.run.files import Record

__all__ = ["write_report"]

TILES = {
    "accuracy_t1": "@t1",
    "accuracy_t2": "@t2",
    "delta": "Delta(t1, t2)",
    "incorrect_to_correct": "i->c",
    "correct_to_incorrect": "c->i",
    "answer_changed": "changed",
}
"""The headline figures, in percent."""

PHASES = ("sample", "judge", "learn")
EXAMPLES = 2
"""Trajectories shown of each flip class."""
LATEST = 4
"""Steps, from the newest on, that are searched for them."""


def write_report(path: Path | str) -> Path:
    """Writes the report into a run directory and returns its path; what is not there yet is left out.

    Raises:
        UserError: the directory holds no steps and no evaluations.
    """
    run = RunDirectory(Path(path))
    steps, evaluations = _steps(run), run.evaluations()
    if not steps and not evaluations:
        raise UserError(f"{path} is no run directory: it holds neither steps nor evaluations")
    sections = [
        *_tables(evaluations),
        _held_out(evaluations, _marks(steps)),
        _curves(steps),
        _examples(run),
        _recipe(run),
    ]
    name = escape(run.path.resolve().name)
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{name} - scorl</title><style>{STYLE}</style></head>"
        f"<body><header><h1>{name}</h1>{_what(steps)}</header><main>{''.join(sections)}</main></body></html>\n"
    )
    return run.write_report(page)


def _steps(run: RunDirectory) -> list[Record]:
    steps = {step["step"]: step for step in run.steps()}
    return [steps[number] for number in sorted(steps)]


def _what(steps: list[Record]) -> str:
    if not steps:
        return "<p>No training step yet.</p>"
    stages = ", then ".join(name for _, name in _marks(steps))
    return f"<p>{len(steps)} steps: {escape(stages)}.</p>"


def _marks(steps: list[Record]) -> list[Mark]:
    """The first step of every stage and the stage's name."""
    begins = [steps[0], *(b for a, b in pairwise(steps) if a["stage"] != b["stage"])] if steps else []
    return [(line["step"], str(line["stage"])) for line in begins]


def _tables(evaluations: dict[str, Any]) -> Iterator[str]:
    for split, latest in evaluations.items():
        first = latest.get("history", [latest])[0]
        if first["step"] == latest["step"]:
            yield _section(f"{split}, step {latest['step']}", _table(evaluation_grid(latest)))
        else:
            title = f"{split}: step {first['step']} and step {latest['step']}"
            yield _section(title, _tiles(first, latest) + _table(before_after_grid(first, latest)))


def _tiles(first: Record, latest: Record) -> str:
    """The headline: each figure after, with the figure before under it."""
    tiles = []
    for name, title in TILES.items():
        old, new = first["metrics"][name]["value"], latest["metrics"][name]["value"]
        if old is not None and new is not None:
            sign = "+z" if name == "delta" else ""
            after, before = f"{100 * new:{sign}.1f}", f"{100 * old:{sign}.1f}"
            tiles.append(f"<div><span>{escape(title)}</span><b>{after}</b><span>before {before}</span></div>")
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _table(grid: Grid) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in grid.header)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in grid.rows)
    notes = "".join(f"<p>{escape(note)}</p>" for note in (grid.title + ".", *grid.notes))
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>{notes}'


def _held_out(evaluations: dict[str, Any], marks: list[Mark]) -> str:
    charts = []
    for split, latest in evaluations.items():
        history = latest.get("history", [latest])
        turns = _by_attempt("accuracy", latest["metrics"])
        known = {k: [(s["step"], s["metrics"][key]) for s in history] for k, key in turns.items()}
        points = {k: [(step, m["value"]) for step, m in row] for k, row in known.items()}
        spans = {
            k: [(step, m["low"], m["high"]) for step, m in row if m["low"] is not None] for k, row in known.items()
        }
        charts.append(chart(f"Accuracy on {split}", points, marks, percent=True, spans=spans))
    return _section("Evaluations during the run, with 95% intervals", _panels(charts))


def _curves(steps: list[Record]) -> str:
    keys = {key: None for step in steps for key in step}
    panels: list[tuple[str, bool, dict[str, str]]] = [
        ("Accuracy", True, _by_attempt("accuracy", keys)),
        ("Delta(t1, t2)", True, {"attempt 2 less attempt 1": "delta"}),
        (
            "Flips",
            True,
            {"wrong, then right": "incorrect_to_correct", "right, then wrong": "correct_to_incorrect"},
        ),
        ("Answers", True, {"changed": "answer_changed", "cut at the token limit": "truncated"}),
        ("KL to the reference", False, _by_attempt("kl", keys)),
        ("Loss", False, {"loss": "loss"}),
        ("Gradient norm", False, {"before clipping": "grad_norm"}),
        ("Tokens per step", False, {"tokens": "tokens"}),
    ]
    marks = _marks(steps)
    charts = [
        chart(title, {k: [(s["step"], s.get(key)) for s in steps] for k, key in names.items()}, marks, percent)
        for title, percent, names in panels
    ]
    seconds = {phase: [(s["step"], (s.get("seconds") or {}).get(phase)) for s in steps] for phase in PHASES}
    return _section("Training, step by step", _panels([*charts, chart("Seconds per step", seconds, marks)]))


def _by_attempt(kind: str, keys: Iterable[str]) -> dict[str, str]:
    """The keys `kind_t1`, `kind_t2`, ... by the attempt's name."""
    return {f"attempt {key[len(kind) + 2 :]}": key for key in keys if re.fullmatch(rf"{kind}_t\d+", key)}


def _panels(charts: Sequence[str]) -> str:
    return f'<div class="panels">{"".join(charts)}</div>' if any(charts) else ""


def _examples(run: RunDirectory) -> str:
    """A few trajectories of every flip class, the newest first."""
    found: dict[str, list[list[Record]]] = {kind: [] for kind in FLIPS}
    for step in reversed(run.attempted_steps()[-LATEST:]):
        for attempts in trajectories(run.attempts([step])):
            if (kind := flip_class(attempts)) and len(found[kind]) < EXAMPLES:
                found[kind].append(attempts)
    shown = [_example(attempts, kind) for kind, several in found.items() for attempts in several]
    return _section("Trajectories", "".join(shown))


def _example(attempts: list[Record], kind: str) -> str:
    cells = []
    for k, pieces in enumerate(marked(attempts)):
        tag = "ins" if k else "del"
        text = "".join(f"<{tag}>{escape(t)}</{tag}>" if changed else escape(t) for t, changed in pieces)
        right = "right" if attempts[k]["reward"] >= 0.5 else "wrong"
        cells.append(f'<div class="{right}"><p>{escape(judgement(attempts[k]))}</p><pre>{text}</pre></div>')
    question = escape(visible(attempts[0].get("question", "")))
    return (
        f'<article class="{kind}"><h3>{escape(heading(attempts))}</h3><pre class="question">{question}</pre>'
        f'<div class="attempts">{"".join(cells)}</div></article>'
    )


def _recipe(run: RunDirectory) -> str:
    text = escape(run.recipe_text())
    return _section("Recipe", f"<pre>{text}</pre>" if text else "")


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>" if body else ""
