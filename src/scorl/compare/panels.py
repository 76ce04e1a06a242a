"""Panels with a row for each arm: bars with intervals, and histograms."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Mapping, Sequence
from itertools import pairwise
from xml.etree.ElementTree import Element

from scorl.metrics import Interval
from scorl.report import svg
from scorl.report.axes import Axes, choose_ticks, draw_heading, draw_x_grid
from scorl.report.svg import Drawing

__all__ = ["WIDTH", "draw_bars", "draw_histograms"]

WIDTH, BOTTOM, LETTERS = 600, 24, 12
"""Pixels: a panel's width, below its axes for numbers, the letters of a row's label."""
BAND, BAR = 24, 9
"""Pixels: a row of bars, and a bar with the gap below it."""
RIDGE = 60
"""Pixels: a row of histograms."""
BINS = [k / 20 for k in range(21)]
FULL = 0.45
"""The share of values in a bin that reaches up to the row above."""


def draw_bars(title: str, keys: Sequence[str], rows: Mapping[str, Sequence[Interval | None]]) -> Drawing | None:
    """Horizontal bars in percent with their intervals, one for each key in every row; None without any."""
    bars = [
        (row, k, 100 * interval.value, 100 * (interval.low or 0), 100 * (interval.high or 0))
        for row, intervals in enumerate(rows.values())
        for k, interval in enumerate(intervals)
        if interval and interval.value is not None
    ]
    if not bars:
        return None
    axes, shapes = _lay_out(title, keys, list(rows), BAND, choose_ticks(0, max(high for *_, high in bars)))
    for row, k, value, low, high in bars:
        y = axes.top + BAND * row + BAR * k + 3
        shapes.append(svg.box(f"s{k + 1}", axes.left, y, axes.x(value) - axes.left, BAR - 1))
        shapes.append(svg.line("whisker", axes.x(low), y + BAR / 2, axes.x(high), y + BAR / 2))
    return Drawing(title, WIDTH, axes.bottom + BOTTOM, tuple(shapes))


def draw_histograms(
    title: str, keys: tuple[str, str], rows: Mapping[str, tuple[Sequence[float], Sequence[float]]]
) -> Drawing | None:
    """Two histograms of values in [0, 1] in every row, the first filled, the second outlined; None without a row."""
    if not rows:
        return None
    axes, shapes = _lay_out(title, keys, list(rows), RIDGE, BINS[::4])
    for row, (filled, outlined) in enumerate(rows.values()):
        floor = axes.top + RIDGE * (row + 1)
        shapes.append(svg.polygon("s1", _outline(axes, filled, floor)))
        if outlined:
            shapes.append(svg.polyline("s2", _outline(axes, outlined, floor)))
    return Drawing(title, WIDTH, axes.bottom + BOTTOM, tuple(shapes))


def _lay_out(
    title: str, keys: Sequence[str], names: Sequence[str], band: float, ticks: Sequence[float]
) -> tuple[Axes, list[Element]]:
    """Axes with a row of `band` pixels for each name; heading, labels and grid."""
    shapes, top = draw_heading(title, [(key, f"s{k}") for k, key in enumerate(keys, 1)], WIDTH)
    left = 8 + max(svg.text_width(name, LETTERS) for name in names)
    axes = Axes(left, top + 12, WIDTH - 16, top + 12 + band * len(names), (ticks[0], ticks[-1]), (0, 1))
    labels = [svg.text("row", left - 8, axes.top + band * (k + 0.5) + 4, name, "end") for k, name in enumerate(names)]
    return axes, [*shapes, *draw_x_grid(axes, ticks), *labels]


def _outline(axes: Axes, values: Sequence[float], floor: float) -> list[tuple[float, float]]:
    """The histogram's upper edge from the floor to the floor."""
    counts = [0] * (len(BINS) - 1)
    for value in values:
        counts[min(bisect(BINS, value), len(counts)) - 1] += 1
    spots = [(axes.left, floor)]
    for (low, high), count in zip(pairwise(BINS), counts, strict=True):
        y = floor - RIDGE * count / max(len(values), 1) / FULL
        spots += [(axes.x(low), y), (axes.x(high), y)]
    return [*spots, (axes.right, floor)]
