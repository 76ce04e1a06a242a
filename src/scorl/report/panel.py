"""A panel of wordings as a table: one row a wording."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scorl.metrics import HEADLINES, Difference
from scorl.report.table import Grid, describe, format_interval, format_p, format_value

if TYPE_CHECKING:
    from scorl.evaluation import Summary
    from scorl.panel import Panel

__all__ = ["tabulate_panel"]


def tabulate_panel(panel: Panel) -> Grid:
    """The headline rates of every wording, and its Delta less the placebo's."""
    summaries = {name: evaluation.summary() for name, evaluation in panel.evaluations.items()}
    beyond = {name: differences["delta"] for name, differences in panel.beyond_placebo().items()}
    header = ("wording", *HEADLINES, *(("Delta - placebo", "p") if beyond else ()))
    rows = tuple(
        (name or "(no name)", *_rates(summary), *(_corrected(beyond.get(name)) if beyond else ()))
        for name, summary in summaries.items()
    )
    return Grid(describe(next(iter(summaries.values()))), header, rows, tuple(_notes(panel, summaries)))


def _rates(summary: Summary) -> list[str]:
    cells = []
    for name in HEADLINES.values():
        measured = summary["metrics"][name]
        interval = f" {format_interval(name, measured)}" if name == "delta" and measured["value"] is not None else ""
        cells.append("" if measured["value"] is None else format_value(name, measured["value"]) + interval)
    return cells


def _corrected(difference: Difference | None) -> tuple[str, str]:
    if difference is None or difference.value is None:
        return "", ""
    interval = format_interval("delta", {"low": difference.low, "high": difference.high})
    return f"{format_value('delta', difference.value)} {interval}", format_p(difference.p).removeprefix("= ")


def _notes(panel: Panel, summaries: dict[str, Summary]) -> list[str]:
    notes = ["Rates in percent, 95% intervals by bootstrap over problems."]
    firsts = [[t.attempts[0].text for group in e.groups for t in group] for e in panel.evaluations.values()]
    if all(one == firsts[0] for one in firsts):
        notes[0] += " First attempts are the same in every row."
    deltas = [value for name in panel.hints if (value := summaries[name]["metrics"]["delta"]["value"]) is not None]
    if len(deltas) > 1:
        spread = panel.spread()["delta"]
        low, high = (format_value("delta", value) for value in (min(deltas), max(deltas)))
        notes.append(
            f"Delta over {len(deltas)} wordings: {format_value('delta', spread.value or 0.0)} on average "
            f"{format_interval('delta', {'low': spread.low, 'high': spread.high})} over wordings and problems, "
            f"from {low} to {high}."
        )
    if len(deltas) < len(summaries):
        notes.append("The placebo asks the problem once more without a hint: what changes then is no correction.")
    return notes
