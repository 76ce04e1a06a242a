"""The comparison as a table: one row an arm, the paper's figures beside ours."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial

from scorl.compare.results import ArmResult, Comparison
from scorl.compare.tokens import EqualTokens
from scorl.metrics import HEADLINES, Interval
from scorl.metrics.alarms import UNCHANGED
from scorl.report.table import Grid, format_p

__all__ = ["tabulate_comparison", "tabulate_equal_tokens"]

COLUMNS = HEADLINES | {
    "keep rate": "keep_rate",
    "fix rate": "fix_rate",
    "ceiling": "ceiling",
    "edit ratio": "edit_ratio",
}
TO_SCORE = {"@t2 - SCoRe": "accuracy_t2", "Delta - SCoRe": "delta"}
FINAL, TOKENS = {"final": "accuracy_final", "final - @t1": "delta_final"}, {"tokens": "tokens_final"}
VERIFIER = {"verifier": "accuracy_v1", "recall right": "recall_right_v1", "recall wrong": "recall_wrong_v1"}
EQUAL = FINAL | TOKENS | {"@t1": "accuracy_t1", "@t2": "accuracy_t2", "Delta": "delta"}
NOTES = {
    "ceiling": "Keep rate k and fix rate f are of right and of wrong first attempts; the ceiling is f / (f + 1 - k), "
    "and correcting pays while @t1 lies below it.",
    "final": "Final: accuracy of the answer that inference ends with: the first of a method that trains no second, the "
    "attempt that its own verification finds right, of UFO the first that the verifier finds right, else the last.",
    "final - @t1": "Delta, flips and rates count every second attempt, also one behind `right`, which inference does "
    "not come to and nothing trains; what correcting adds to the policy that is deployed is final - @t1.",
    "tokens": "Tokens: what a problem takes at inference.",
    "verifier": "Verifier: how often verifications of first attempts are right, of all, of right and of wrong ones.",
    "collapsed": f"Collapsed: seeds in which fewer than {UNCHANGED:.0%} of the answers change between attempts 1 and "
    "2; p by Fisher's exact test against SCoRe's seeds.",
    "@t2 - SCoRe": "Differences to SCoRe are paired by problem and seed; p by the larger of the bootstrap's and a "
    "t-test's over seeds. Every p is corrected for the number of arms in its column (Holm).",
    "paper, MATH500": "The paper's figures (@t1 / @t2 / Delta) are of Gemini 1.5 Flash on MATH500.",
}
"""What is said below the table of a column that it has."""
EQUALLY = (
    "Of each run the last evaluation at which it had sampled no more tokens than the run that sampled least; where the "
    "learning rate falls, the others have not come to its end there."
)


def tabulate_comparison(comparison: Comparison) -> Grid:
    """The table; what a row does not have is left blank."""
    about = comparison.about
    more = sorted({n for row in comparison.rows for n in row.metrics if n.startswith("accuracy_t")})[2:]
    columns = COLUMNS | {f"@t{name.removeprefix('accuracy_t')}": name for name in more}
    to_score = TO_SCORE
    if any(row.stops for row in comparison.rows):
        columns = FINAL | TOKENS | columns | VERIFIER
        to_score = {"final - SCoRe": "accuracy_final", **TO_SCORE}
    columns |= TOKENS
    known = {name for row in comparison.rows for name in row.metrics}
    columns = {title: name for title, name in columns.items() if name in known}
    shown: dict[str, Callable[[ArmResult], str]] = {
        "method": lambda row: row.arm.label,
        "seeds": lambda row: str(len(row.seeds)) if row.arm.trains else "",
    }
    if key := next((row.tuned.key for row in comparison.rows if row.tuned), None):
        shown[key] = lambda row: row.tuned.value if row.tuned else ""
    shown |= {title: partial(_format_interval, name=name) for title, name in columns.items()}
    if any(row.collapsed for row in comparison.rows):
        shown["collapsed"] = _format_collapsed
    if any(row.to_score for row in comparison.rows):
        shown |= {title: partial(_format_difference, name=name) for title, name in to_score.items()}
    if any(row.arm.published for row in comparison.rows):
        shown["paper, MATH500"] = _format_published
    rows = tuple(tuple(cell(row) for cell in shown.values()) for row in comparison.rows)
    title = (
        f"{about['model']} on {about['task']} ({about['split']}): {about['test_problems']} problems, "
        f"temperature {about['temperature']:g}, {about['steps']} steps"
    )
    return Grid(title, tuple(shown), rows, _write_notes(comparison, shown))


def tabulate_equal_tokens(equal: EqualTokens) -> Grid:
    """The table at equal sampled tokens."""
    shown = {title: name for title, name in EQUAL.items() if any(name in row.metrics for row in equal.rows)}
    rows = tuple(
        (
            row.arm.label,
            f"{row.steps:.0f}",
            f"{row.tokens:,.0f}",
            *(_format(row.metrics.get(name), name) for name in shown.values()),
        )
        for row in equal.rows
    )
    notes = [EQUALLY, *(text for column, text in NOTES.items() if column in shown)]
    if equal.left_out:
        names = ", ".join(arm.label for arm in equal.left_out)
        notes.append(f"Not there, since they had sampled more before their first evaluation: {names}.")
    title = f"At equal sampled tokens: at most {equal.budget:,}"
    return Grid(title, ("method", "updates", "sampled tokens", *shown), rows, tuple(notes))


def _write_notes(comparison: Comparison, shown: Collection[str]) -> tuple[str, ...]:
    notes = ["Percent: the mean over seeds and its 95% interval over seeds and problems (hierarchical bootstrap)."]
    notes += [text for column, text in NOTES.items() if column in shown]
    if tuned := next((row.tuned for row in comparison.rows if row.tuned), None):
        values, seeds = (", ".join(map(str, said)) for said in (tuned.validation, tuned.seeds))
        best = "the best of each arm by final accuracy on the validation split"
        notes.append(f"{tuned.key}: of {values}, {best} (seed {seeds}).")
    for row in comparison.rows:
        for stage, about in (row.collected or {}).items():
            name = row.arm.label if len(row.collected or {}) == 1 else f"{row.arm.label}, {stage}"
            notes.append(
                f"{name}: {about['examples']} of {about['trajectories']} collected trajectories entered the data set."
            )
    return tuple(notes)


def _format_interval(row: ArmResult, name: str) -> str:
    return _format(row.metrics.get(name), name)


def _format(interval: Interval | None, name: str) -> str:
    if interval is None or interval.value is None or interval.low is None or interval.high is None:
        return ""
    if name == "edit_ratio":
        return f"{interval.value:.2f} [{interval.low:.2f}, {interval.high:.2f}]"
    if name.startswith("tokens"):
        return f"{interval.value:.0f}"
    sign = "+" if name.startswith("delta") else ""
    value, low, high = (100 * x for x in (interval.value, interval.low, interval.high))
    return f"{value:{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}]"


def _format_difference(row: ArmResult, name: str) -> str:
    difference, p = row.to_score.get(name), row.p_holm.get(name)
    if difference is None or difference.value is None or p is None:
        return ""
    return f"{100 * difference.value:+.1f} (p {format_p(p)})"


def _format_collapsed(row: ArmResult) -> str:
    if row.collapsed is None:
        return ""
    p = "" if row.collapsed.p_holm is None else f" (p {format_p(row.collapsed.p_holm)})"
    return f"{row.collapsed.seeds} of {row.collapsed.of}{p}"


def _format_published(row: ArmResult) -> str:
    if row.arm.published is None:
        return ""
    first, second, delta = row.arm.published
    return f"{first:.1f} / {second:.1f} / {delta:+.1f}"
