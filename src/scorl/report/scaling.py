"""Scaling at inference as a table: one row a budget."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scorl.report.table import Grid, format_interval, format_p, format_value

__all__ = ["tabulate_scaling"]


def tabulate_scaling(summary: Mapping[str, Any]) -> Grid:
    """What each arm reaches at each budget, and what correcting adds to parallel samples."""
    arms, differences = summary["arms"], summary["difference"]
    header = (
        "responses",
        *arms,
        *(f"{name} - parallel" for name in differences),
        *(["p"] if len(differences) == 1 else []),
    )
    rows = tuple(
        (
            str(budget),
            *(_measured(arm.get(budget)) for arm in arms.values()),
            *(_change(change.get(budget)) for change in differences.values()),
            *([_chance(change.get(budget)) for change in differences.values()] if len(differences) == 1 else []),
        )
        for budget in summary["budgets"]
    )
    title = (
        f"{summary['model']} on {summary['task']} ({summary['split']}): {summary['problems']} problems, "
        f"{summary['samples']} samples each, temperature {summary['temperature']:g}"
    )
    return Grid(title, header, rows, tuple(_notes(summary)))


def _notes(summary: Mapping[str, Any]) -> list[str]:
    known = {name: tokens for name, tokens in summary["tokens"].items() if tokens is not None}
    notes = [
        "Accuracy of a majority vote in percent, over every choice of so many of the samples, 95% intervals by "
        "bootstrap over problems. Every response counts: a sample that is corrected once takes two."
    ]
    if known:
        notes.append("Tokens a response: " + ", ".join(f"{name} {tokens:.1f}" for name, tokens in known.items()) + ".")
    return notes


def _measured(interval: Mapping[str, Any] | None) -> str:
    if interval is None:
        return ""
    return f"{format_value('accuracy', interval['value'])} {format_interval('accuracy', interval)}"


def _change(difference: Mapping[str, Any] | None) -> str:
    if difference is None:
        return ""
    return f"{format_value('delta', difference['value'])} {format_interval('delta', difference)}"


def _chance(difference: Mapping[str, Any] | None) -> str:
    return format_p(difference["p"]).removeprefix("= ") if difference else ""
