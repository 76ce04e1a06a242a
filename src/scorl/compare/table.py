"""The comparison as a table: one row an arm, the paper's figures beside ours."""

from __future__ import annotations

from scorl.compare.results import ArmResult, Comparison
from scorl.metrics import HEADLINES, Difference
from scorl.report.table import Grid

__all__ = ["tabulate_comparison"]

COLUMNS = HEADLINES | {"edit ratio": "edit_ratio"}
TO_SCORE = {"@t2 - SCoRe": "accuracy_t2", "Delta - SCoRe": "delta"}


def tabulate_comparison(comparison: Comparison) -> Grid:
    """The table; what a row does not have is left blank."""
    about = comparison.about
    more = sorted({n for row in comparison.rows for n in row.metrics if n.startswith("accuracy_t")})[2:]
    columns = COLUMNS | {f"@t{name.removeprefix('accuracy_t')}": name for name in more}
    if any("accuracy_selective" in row.metrics for row in comparison.rows):
        columns["@selective"] = "accuracy_selective"
    differ = any(row.to_score for row in comparison.rows)
    published = any(row.arm.published for row in comparison.rows)
    header = ("method", "seeds", *columns, *(TO_SCORE if differ else ()), *(["paper, MATH500"] if published else ()))
    rows = tuple(
        (
            row.arm.label,
            str(len(row.seeds)) if row.arm.trains else "",
            *(_format_interval(row, name) for name in columns.values()),
            *(_format_difference(row.to_score.get(name)) for name in (TO_SCORE.values() if differ else ())),
            *([_format_published(row)] if published else ()),
        )
        for row in comparison.rows
    )
    title = (
        f"{about['model']} on {about['task']} ({about['split']}): {about['test_problems']} problems, "
        f"temperature {about['temperature']:g}, {about['steps']} steps"
    )
    return Grid(title, header, rows, _write_notes(comparison, differ, published))


def _write_notes(comparison: Comparison, differ: bool, published: bool) -> tuple[str, ...]:
    notes = ["Percent: the mean over seeds and its 95% interval over seeds and problems (hierarchical bootstrap)."]
    if differ:
        notes.append(
            "Differences to SCoRe are paired by problem and seed; p is the larger of the bootstrap's and a t-test's "
            "over seeds."
        )
    if published:
        notes.append("The paper's figures (@t1 / @t2 / Delta) are of Gemini 1.5 Flash on MATH500.")
    for row in comparison.rows:
        for stage, about in (row.collected or {}).items():
            name = row.arm.label if len(row.collected or {}) == 1 else f"{row.arm.label}, {stage}"
            notes.append(
                f"{name}: {about['examples']} of {about['trajectories']} collected trajectories entered the data set."
            )
    return tuple(notes)


def _format_interval(row: ArmResult, name: str) -> str:
    interval = row.metrics.get(name)
    if interval is None or interval.value is None or interval.low is None or interval.high is None:
        return ""
    if name == "edit_ratio":
        return f"{interval.value:.2f} [{interval.low:.2f}, {interval.high:.2f}]"
    sign = "+" if name == "delta" else ""
    value, low, high = (100 * x for x in (interval.value, interval.low, interval.high))
    return f"{value:{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}]"


def _format_difference(difference: Difference | None) -> str:
    if difference is None or difference.value is None or difference.p is None:
        return ""
    p = "p < 0.001" if difference.p < 0.001 else f"p = {difference.p:.3f}"
    return f"{100 * difference.value:+.1f} ({p})"


def _format_published(row: ArmResult) -> str:
    if row.arm.published is None:
        return ""
    first, second, delta = row.arm.published
    return f"{first:.1f} / {second:.1f} / {delta:+.1f}"
