"""Curves over steps as inline SVG, drawn without a library."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from types import MappingProxyType

__all__ = ["Mark", "Points", "Span", "chart"]

Points = Sequence[tuple[float, float | None]]
"""(step, value) in the order of steps; None where there is no value, which breaks the line."""

Span = tuple[float, float, float]
"""(step, low, high): an interval."""

Mark = tuple[float, str]
"""Where a stage begins, and its name."""

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 420, 230, 46, 8, 20, 24
COLOURS = 4


def chart(
    title: str,
    series: Mapping[str, Points],
    marks: Sequence[Mark] = (),
    percent: bool = False,
    spans: Mapping[str, Sequence[Span]] = MappingProxyType({}),
) -> str:
    """A figure of one panel: a thin line of every value and a bold moving mean per series, stages marked.

    The moving mean is taken over a twentieth of the steps and drawn alone where that is a single step;
    `spans` are upright lines. Shares are drawn in percent. A chart without any value is the empty string.
    """
    scale = 100 if percent else 1
    rows = {
        name: [(x, y * scale if y is not None and math.isfinite(y) else None) for x, y in points]
        for name, points in series.items()
    }
    bars = {name: [(x, low * scale, high * scale) for x, low, high in row] for name, row in spans.items()}
    ys = [y for row in rows.values() for _, y in row if y is not None]
    if not ys:
        return ""
    place = _place(
        [x for row in rows.values() for x, _ in row],
        ys + [y for row in bars.values() for _, *e in row for y in e],
    )
    body = _grid(place) + _stages(place, marks)
    legend = ""
    for k, (name, row) in enumerate(rows.items()):
        colour = f"s{k % COLOURS + 1}"
        body += _bars(place, bars.get(name, ()), colour, shift=2 * k - 1) + _lines(place, row, colour)
        legend += f'<span class="key {colour}">{escape(name)}</span>'
    heading = escape(title + (", %" if percent else ""))
    return (
        f'<figure><figcaption><b>{heading}</b>{legend}</figcaption><svg viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'role="img" aria-label="{heading}">{body}</svg></figure>'
    )


@dataclass(frozen=True)
class _Place:
    """Maps steps and values to the SVG's coordinates."""

    x_ticks: list[float]
    y_ticks: list[float]
    x_range: tuple[float, float]

    def x(self, step: float) -> float:
        low, high = self.x_range
        return round(LEFT + (step - low) / (high - low or 1) * (WIDTH - LEFT - RIGHT), 1)

    def y(self, value: float) -> float:
        low, high = self.y_ticks[0], self.y_ticks[-1]
        return round(HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM), 1)


def _place(xs: Sequence[float], ys: Sequence[float]) -> _Place:
    ends = min(xs), max(xs)
    inside = [tick for tick in _ticks(*ends) if ends[0] <= tick <= ends[1]]
    return _Place(inside, _ticks(min(*ys, 0), max(*ys, 0)), ends)


def _ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers from just below `low` to just above `high`."""
    span = high - low or abs(high) or 1
    power = 10 ** math.floor(math.log10(span))
    size = next(step * power for step in (0.2, 0.5, 1, 2, 5) if span / (step * power) <= 5)
    first = math.floor(low / size)
    return [k * size for k in range(first, max(first + 1, math.ceil(high / size)) + 1)]


def _grid(place: _Place) -> str:
    lines = [
        f'<line class="{"zero" if tick == 0 else "grid"}" x1="{LEFT}" x2="{WIDTH - RIGHT}" '
        f'y1="{place.y(tick)}" y2="{place.y(tick)}"/>'
        f'<text x="{LEFT - 5}" y="{place.y(tick) + 4}" text-anchor="end">{_short(tick)}</text>'
        for tick in place.y_ticks
    ]
    lines += [
        f'<text x="{place.x(tick)}" y="{HEIGHT - 6}" text-anchor="middle">{_short(tick)}</text>'
        for tick in place.x_ticks
    ]
    return "".join(lines)


def _stages(place: _Place, marks: Sequence[Mark]) -> str:
    parts, free = [], 0.0
    for step, name in marks:
        x = place.x(step)
        parts.append(f'<line class="stage" x1="{x}" x2="{x}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        if x >= free and x < WIDTH - 40:
            parts.append(f'<text class="stage" x="{x + 3}" y="{TOP - 6}">{escape(name)}</text>')
            free = x + 8 + 6 * len(name)
    return "".join(parts)


def _lines(place: _Place, points: Points, colour: str) -> str:
    window = max(1, len(points) // 20)
    mean = _path(place, _smooth(points, window), colour)
    return mean if window == 1 else _path(place, points, f"{colour} raw") + mean


def _bars(place: _Place, spans: Sequence[Span], colour: str, shift: int) -> str:
    """Intervals, a little beside their step, so that those of two series do not hide each other."""
    return "".join(
        f'<line class="span {colour}" x1="{place.x(x) + shift}" x2="{place.x(x) + shift}" '
        f'y1="{place.y(low)}" y2="{place.y(high)}"/>'
        for x, low, high in spans
    )


def _smooth(points: Points, window: int) -> Points:
    """The centred moving mean over the known values among `2 * (window // 2) + 1` points."""
    half, smooth = window // 2, []
    for k, (x, y) in enumerate(points):
        near = [v for _, v in points[max(0, k - half) : k + half + 1] if v is not None]
        smooth.append((x, None if y is None else sum(near) / len(near)))
    return smooth


def _path(place: _Place, points: Points, style: str) -> str:
    parts = []
    for known, run in groupby(points, key=lambda point: point[1] is not None):
        spots = [(place.x(x), place.y(y)) for x, y in run if y is not None]
        if known and len(spots) == 1:
            parts.append(f'<circle class="{style}" cx="{spots[0][0]}" cy="{spots[0][1]}" r="2.5"/>')
        elif known:
            parts.append(f'<polyline class="{style}" points="{" ".join(f"{x},{y}" for x, y in spots)}"/>')
    return "".join(parts)


def _short(number: float) -> str:
    """A tick's number, short.

    >>> _short(2500), _short(0.30000000000000004), _short(-20.0)
    ('2.5k', '0.3', '-20')
    """
    return f"{number / 1000:g}k" if abs(number) >= 1000 else f"{number:.4g}"
