"""Curves over steps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from xml.etree.ElementTree import Element

from scorl.report import svg
from scorl.report.axes import Axes, choose_ticks, draw_heading, draw_x_grid, draw_y_grid
from scorl.report.svg import Drawing

__all__ = ["Mark", "Points", "Series", "Span", "draw_chart"]

Points = Sequence[tuple[float, float | None]]
"""(step, value) in the order of steps; None where there is no value, which breaks the line."""

Span = tuple[float, float, float]
"""(step, low, high): an interval."""

Mark = tuple[float, str]
"""Where a stage begins, and its name."""

LEFT, RIGHT, BOTTOM = 36, 4, 20
"""Room around the axes, for numbers."""


@dataclass(frozen=True)
class Series:
    """A curve and what it is called; curves of one name have one key."""

    name: str
    points: Points
    spans: Sequence[Span] = ()
    style: str | None = None
    """Its class; None: the colour of its place among the others."""


def draw_chart(
    title: str,
    series: Sequence[Series],
    marks: Sequence[Mark] = (),
    percent: bool = False,
    raw: bool = True,
    size: tuple[float, float] = (360, 246),
) -> Drawing | None:
    """A chart with a bold moving mean of each series, over a thin line of every value; None without any value.

    Args:
        title: of the chart.
        series: the curves.
        marks: where stages begin.
        percent: whether values are shares, drawn in percent; the title says so.
        raw: whether the values themselves are drawn too; the mean is taken over a twentieth of the steps.
        size: width and height in pixels.
    """
    curves = [_scale(one, 100 if percent else 1, f"s{k}") for k, one in enumerate(series, 1)]
    xs = [x for one in curves for x, _ in one.points]
    ys = [y for one in curves for _, y in one.points if y is not None]
    if not ys:
        return None
    ys += [end for one in curves for _, *ends in one.spans for end in ends]
    width, height = size
    keys = {one.name: f"{one.style}" for one in reversed(curves) if any(y is not None for _, y in one.points)}
    heading, top = draw_heading(title, list(keys.items())[::-1], width)
    ticks = choose_ticks(min(*ys, 0), max(*ys, 0))
    ends = min(xs), max(xs)
    axes = Axes(LEFT, top + 22, width - RIGHT, height - BOTTOM, ends, (ticks[0], ticks[-1]))
    inside = [tick for tick in choose_ticks(*ends) if ends[0] <= tick <= ends[1]]
    shapes = [*heading, *draw_y_grid(axes, ticks), *draw_x_grid(axes, inside, lines=False), *_stages(axes, marks)]
    for k, one in enumerate(curves):
        shapes += [*_spans(axes, one, shift=2 * k - 1), *_curves(axes, one, raw)]
    return Drawing(title, width, height, tuple(shapes))


def _scale(series: Series, scale: float, style: str) -> Series:
    """The series as it is drawn: in percent, say; numbers that are not finite are no values."""
    points = [(x, y * scale if y is not None and math.isfinite(y) else None) for x, y in series.points]
    spans = [(x, low * scale, high * scale) for x, low, high in series.spans]
    return Series(series.name, points, spans, series.style or style)


def _stages(axes: Axes, marks: Sequence[Mark]) -> Iterator[Element]:
    free = 0.0
    for step, name in marks:
        x = axes.x(step)
        yield svg.line("stage", x, axes.top - 12, x, axes.bottom)
        if x >= free and x < axes.right - 40:
            yield svg.text("stage", x + 3, axes.top - 4, name)
            free = x + 8 + svg.text_width(name, 10)


def _curves(axes: Axes, series: Series, raw: bool) -> Iterator[Element]:
    window = max(1, len(series.points) // 20)
    if raw and window > 1:
        yield from _curve(axes, series.points, f"{series.style} raw")
    yield from _curve(axes, _smooth(series.points, window), f"{series.style}")


def _spans(axes: Axes, series: Series, shift: float) -> Iterator[Element]:
    """Intervals, a little beside their step, so that those of two series do not hide each other."""
    for step, low, high in series.spans:
        x = axes.x(step) + shift
        yield svg.line(f"{series.style} span", x, axes.y(low), x, axes.y(high))


def _smooth(points: Points, window: int) -> Points:
    """The centred moving mean over the values that are there among `2 * (window // 2) + 1` points."""
    half, smooth = window // 2, []
    for k, (x, y) in enumerate(points):
        near = [v for _, v in points[max(0, k - half) : k + half + 1] if v is not None]
        smooth.append((x, None if y is None else sum(near) / len(near)))
    return smooth


def _curve(axes: Axes, points: Points, style: str) -> Iterator[Element]:
    """A line through neighbouring values, and a dot for one that has no neighbour."""
    for there, stretch in groupby(points, key=lambda point: point[1] is not None):
        spots = [(axes.x(x), axes.y(y)) for x, y in stretch if y is not None]
        if there:
            yield svg.polyline(style, spots) if len(spots) > 1 else svg.dot(style, *spots[0])
