"""A watched run for terminals, renewed in place, and in plain lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from scorl.metrics import HEADLINES, VERIFIED
from scorl.report.show import STYLES
from scorl.report.table import format_interval, format_value
from scorl.report.trajectories import ShownTrajectory
from scorl.report.watch import FIGURES, WatchedRun, sparkline
from scorl.run.files import Record
from scorl.run.progress import describe_step, format_duration
from scorl.text_files import make_visible

__all__ = ["describe_evaluation", "describe_new", "describe_state", "draw", "draw_all"]

SHORT = 300
"""Characters of a text that are shown."""
QUIET = 60.0
"""Seconds without a word after which that is said."""
NOT_IN_PERCENT = ("kl_t1", "kl_t2", "loss", "grad_norm", "tokens")


def draw_all(runs: Sequence[WatchedRun]) -> RenderableType:
    """All runs, one below the other."""
    return Group(*map(draw, runs))


def draw(run: WatchedRun) -> RenderableType:
    """A run in a frame: where it is, its figures with their curves, the held-out evaluations, a corrected attempt."""
    done, total = len(run.steps), run.total
    parts: list[RenderableType] = [Text(describe_state(run), style="bold")]
    if total:
        parts.append(Padding(ProgressBar(total=total, completed=min(_made(run), total)), 0))  # which ends its line
    if done:
        parts.append(_draw_figures(run))
    if run.history:
        parts.append(_draw_evaluations(run))
    parts += [Text(f"ALARM {make_visible(alarm)}", style="bold red") for alarm in run.alarms]
    if run.attempt:
        parts += list(_draw_attempt(run.attempt))
    return Panel(Group(*parts), title=Text(make_visible(run.run.path.name)), title_align="left")


def describe_state(run: WatchedRun) -> str:
    """Where a run is, in a line."""
    if not run.steps:
        if run.done:
            return "done"
        if run.total is None:
            return f"waiting: nothing of a run is in {make_visible(str(run.run.path))} yet"
        what = "the first step is under way" if run.history else "the first evaluation is under way"
        return f"0/{run.total}  {what}{_silence(run)}"
    last, made, seconds = run.steps[-1], _made(run), run.seconds_per_step or 0.0
    parts = [f"{make_visible(str(last['stage']))} {made}/{run.total or '?'}", f"{seconds:.2f} s/step"]
    if run.done:
        return "  ".join([*parts, "done"])
    if run.total:
        parts.append(f"{format_duration(seconds * (run.total - made))} left")
    return "  ".join(parts) + _silence(run)


def describe_evaluation(entry: Record) -> str:
    """A held-out evaluation in a line, in percent."""
    parts = [f"held-out after {entry['step']} updates:"]
    for name, key in (HEADLINES | VERIFIED).items():
        metric = entry["metrics"].get(key)
        if metric and metric["value"] is not None:
            parts.append(f"{name} {format_value(key, metric['value'])} {format_interval(key, metric)}".rstrip())
    return make_visible("  ".join(parts))


def describe_new(run: WatchedRun, steps: int, evaluations: int) -> Iterator[str]:
    """The lines of what is new behind so many steps and evaluations, in their order."""
    seconds, total = run.seconds_per_step or 0.0, run.total or 0
    lines = [(step["step"] + 1, 0, describe_step(step, total, seconds)) for step in run.steps[steps:]]
    lines += [(entry["step"], 1, describe_evaluation(entry)) for entry in run.history[evaluations:]]
    yield from (text for _, _, text in sorted(lines))


def _made(run: WatchedRun) -> int:
    return int(run.steps[-1]["step"]) + 1 if run.steps else 0


def _silence(run: WatchedRun) -> str:
    silent = run.silent_for
    if silent is None or silent < max(QUIET, 5 * (run.seconds_per_step or 0.0)):
        return ""
    return f"  nothing was written for {format_duration(silent)}: an evaluation, or it has stopped"


def _draw_figures(run: WatchedRun) -> Table:
    table = Table(box=None, padding=(0, 1))
    for name, justify in (("training", "left"), ("now", "right"), ("last 10", "right"), ("", "left")):
        table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for name, key in FIGURES.items():
        values = run.series(key)
        recent = [value for value in values[-10:] if value is not None]
        if recent:
            now, mean = values[-1], sum(recent) / len(recent)
            table.add_row(name, "" if now is None else _format(key, now), _format(key, mean), sparkline(values))
    return table


def _draw_evaluations(run: WatchedRun) -> Table:
    first, last = run.history[0], run.history[-1]
    table = Table(box=None, padding=(0, 1))
    table.add_column("held-out", no_wrap=True)
    for entry in (first, last) if first is not last else (last,):
        table.add_column(Text(make_visible(f"after {entry['step']}")), justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for name, key in (HEADLINES | VERIFIED).items():
        values = [entry["metrics"].get(key, {}).get("value") for entry in run.history]
        if values[-1] is None:
            continue
        metric = last["metrics"][key]
        cells = [] if first is last else ["" if values[0] is None else _format(key, values[0])]
        table.add_row(
            name,
            *cells,
            f"{_format(key, values[-1])} {format_interval(key, metric)}".rstrip(),
            sparkline(values),
        )
    return table


def _draw_attempt(shown: ShownTrajectory) -> Iterator[RenderableType]:
    yield Text(f"\n{shown.heading}", style="bold")
    yield Text(_shorten(shown.question), style="dim")
    for response in shown.responses:
        text = Text(
            f"{response.label}\n", style="green" if response.right else "red" if response.right is False else ""
        )
        text.append_text(Text.assemble(*((piece, STYLES[mark] or "default") for piece, mark in response.pieces)))
        text.truncate(SHORT + len(response.label), overflow="ellipsis")
        yield text


def _shorten(text: str) -> str:
    return text if len(text) <= SHORT else text[: SHORT - 1] + "…"


def _format(key: str, value: float) -> str:
    if key in NOT_IN_PERCENT:
        return f"{value:,.0f}" if key == "tokens" else f"{value:.3g}"
    return format_value(key, value)
