"""Tables of one evaluation and of before against after: for a terminal, for Markdown, for the HTML report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from scorl.metrics import Difference, bootstrap_differences, tally_outcomes
from scorl.run.history import of_same_problems
from scorl.text_files import make_visible

if TYPE_CHECKING:  # reading a run's files needs no model, hence no torch
    from scorl.evaluation import Evaluation, Summary

__all__ = [
    "Grid",
    "describe",
    "fold_columns",
    "format_interval",
    "format_p",
    "format_value",
    "label_metric",
    "tabulate_change",
    "tabulate_evaluation",
    "to_markdown",
    "to_rich",
]

LABELS = {
    "accuracy_selective": "accuracy, selective revision",
    "saved_tokens": "tokens saved by it",
    "delta": "Delta(t1, t2)",
    "incorrect_to_correct": "wrong, then right (i->c)",
    "correct_to_incorrect": "right, then wrong (c->i)",
    "fix_rate": "fix rate, i->c / (1 - @t1)",
    "keep_rate": "keep rate, c->c / @t1",
    "break_rate": "break rate, c->i / @t1",
    "ceiling": "ceiling, f / (f + 1 - k)",
    "pass_2": "pass@2, first attempts",
    "majority_2": "majority of 2, first attempts",
    "answer_changed": "answer changed",
    "edit_ratio": "edit-distance ratio",
    "truncated": "cut at the token limit",
}
"""What people read in place of a metric's name; the others are spelled out by `label_metric`."""

LABEL = 20
"""Characters that labels are left at least, in which longer ones wrap."""
ROLES = {"t": "attempt", "v": "verification", "c": "critique"}


@dataclass(frozen=True)
class Grid:
    """A table before it is drawn: the first column holds labels, the others figures."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def tabulate_evaluation(evaluation: Evaluation | Summary) -> Grid:
    """Every metric of an evaluation with its 95% interval; metrics that are undefined are left out."""
    summary = _summarize(evaluation)
    defined = {name: m for name, m in summary["metrics"].items() if m["value"] is not None}
    rows = tuple(
        (label_metric(name), format_value(name, m["value"]), format_interval(name, m)) for name, m in defined.items()
    )
    p = summary["mcnemar_p"]
    notes = (
        ("Rates in percent.",) if p is None else (f"Rates in percent. Delta(t1, t2), exact McNemar: p {format_p(p)}.",)
    )
    return Grid(describe(summary), ("metric", "value", "95% interval"), rows, notes)


def tabulate_change(before: Evaluation | Summary, after: Evaluation | Summary) -> Grid:
    """Every metric before and after with intervals; changes are paired where the problems are the same."""
    old, new = _summarize(before), _summarize(after)
    changes = _pair(old, new)
    both = {name: (old["metrics"][name], m) for name, m in new["metrics"].items() if name in old["metrics"]}
    defined = {name: pair for name, pair in both.items() if any(m["value"] is not None for m in pair)}
    rows = tuple(_make_row(name, *pair, changes.get(name)) for name, pair in defined.items())
    how = "is paired by problem" if changes else "has no interval: the two are not about the same problems"
    notes = [f"Rates in percent, 95% intervals by bootstrap over problems. The change {how}."]
    if old["mcnemar_p"] is not None and new["mcnemar_p"] is not None:
        tests = f"before p {format_p(old['mcnemar_p'])}, after p {format_p(new['mcnemar_p'])}"
        notes.append(f"Delta(t1, t2), exact McNemar: {tests}.")
    return Grid(describe(new), ("metric", "before", "after", "change", "p"), rows, tuple(notes))


def to_markdown(grid: Grid) -> str:
    """The table as Markdown, aligned so that it reads well as plain text too; in a terminal it is words alone."""
    widths = [max(len(row[k]) for row in (grid.header, *grid.rows)) for k in range(len(grid.header))]
    rule = tuple("-" * widths[0] if k == 0 else "-" * (w - 1) + ":" for k, w in enumerate(widths))
    lines = [
        "| "
        + " | ".join(c.ljust(w) if k == 0 else c.rjust(w) for k, (c, w) in enumerate(zip(row, widths, strict=True)))
        + " |"
        for row in (grid.header, rule, *grid.rows)
    ]
    return make_visible("\n\n".join([grid.title, "\n".join(lines), *grid.notes])) + "\n"


def fold_columns(grid: Grid, width: int) -> list[Grid]:
    """A table that is wider than a terminal as several below each other, each with the labels; the title stands above
    the first, the notes below the last.
    """
    widths = [max(len(row[k]) for row in (grid.header, *grid.rows)) + 3 for k in range(len(grid.header))]
    widths[0] = min(widths[0], LABEL + 3)
    folds: list[list[int]] = [[0]]
    for k in range(1, len(widths)):
        if len(folds[-1]) > 1 and sum(widths[n] for n in (*folds[-1], k)) >= width:
            folds.append([0])
        folds[-1].append(k)
    parts = [
        Grid("", tuple(grid.header[k] for k in fold), tuple(tuple(row[k] for k in fold) for row in grid.rows))
        for fold in folds
    ]
    parts[0] = replace(parts[0], title=grid.title)
    parts[-1] = replace(parts[-1], notes=grid.notes)
    return parts


def to_rich(grid: Grid) -> Table:
    """The table for a terminal."""
    table = Table(
        title=_cell(grid.title) if grid.title else None,
        title_justify="left",
        caption=_cell(" ".join(grid.notes)) if grid.notes else None,
        caption_justify="left",
    )
    for k, name in enumerate(grid.header):
        table.add_column(_cell(name), justify="right" if k else "left", no_wrap=k > 0)
    for row in grid.rows:
        table.add_row(*map(_cell, row))
    return table


def _cell(text: str) -> Text:
    """As it stands: names of others are no markup."""
    return Text(make_visible(text))


def label_metric(name: str) -> str:
    """What people read in place of a metric's name.

    >>> [label_metric(name) for name in ("accuracy_t2", "accuracy_v1", "recall_wrong_v1")]
    ['accuracy@t2', 'accuracy, verification 1', 'recall of wrong, verification 1']
    >>> label_metric("delta_t2_t3"), label_metric("tokens_t1")
    ('Delta(t2, t3)', 'tokens, attempt 1')
    """
    if name in LABELS:
        return LABELS[name]
    kind, *responses = name.split("_")
    if kind == "delta":
        return f"Delta({', '.join(responses)})"
    if name.startswith("accuracy_t"):
        return f"accuracy@{responses[0]}"
    if kind == "recall":
        return f"recall of {responses[0]}, verification {responses[1][1:]}"
    return f"{kind}, {ROLES[responses[0][0]]} {responses[0][1:]}"


def _make_row(name: str, old: dict[str, Any], new: dict[str, Any], change: Difference | None) -> tuple[str, ...]:
    cells = ["undefined" if m["value"] is None else _format_measured(name, m) for m in (old, new)]
    if change and change.value is not None:
        span = format_interval(name, {"low": change.low, "high": change.high}, signed=True)
        p = format_p(change.p).removeprefix("= ")
        return (label_metric(name), *cells, f"{format_value(name, change.value, signed=True)} {span}", p)
    if old["value"] is None or new["value"] is None:
        return (label_metric(name), *cells, "", "")
    return (label_metric(name), *cells, format_value(name, new["value"] - old["value"], signed=True), "")


def _pair(old: Summary, new: Summary) -> dict[str, Difference]:
    """The change of each metric; none where the problems differ."""
    if not old.get("outcomes") or not of_same_problems(old, new):
        return {}
    return bootstrap_differences([tally_outcomes(old["outcomes"])], [tally_outcomes(new["outcomes"])])


def _summarize(evaluation: Evaluation | Summary) -> Summary:
    return evaluation if isinstance(evaluation, dict) else evaluation.summary()


def describe(s: Summary) -> str:
    """What an evaluation is of, as a title."""
    said = "unknown" if s["temperature"] is None else f"{s['temperature']:g}"
    return (
        f"{s['model']} on {s['task']} ({s['split']}): {s['problems']} problems, "
        f"{s['samples']} sample{'s' * (s['samples'] > 1)} each, temperature {said}"
    )


def format_value(name: str, value: float, signed: bool = False) -> str:
    """A rate in percent, a ratio with three digits, a number of tokens with one."""
    sign = "+z" if signed or name.startswith("delta") else ""
    if name == "edit_ratio":
        return f"{value:{sign}.3f}"
    return f"{value if name.startswith('tokens') else 100 * value:{sign}.1f}"


def _format_measured(name: str, measured: dict[str, Any]) -> str:
    return f"{format_value(name, measured['value'])} {format_interval(name, measured)}"


def format_interval(name: str, interval: Mapping[str, Any], signed: bool = False) -> str:
    """Its bounds as `format_value` writes them; empty where there are none."""
    if interval["low"] is None:
        return ""
    return f"[{format_value(name, interval['low'], signed)}, {format_value(name, interval['high'], signed)}]"


def format_p(p: float | None) -> str:
    """`= 0.012`, or `< 0.001`; empty where there is none."""
    if p is None:
        return ""
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"
