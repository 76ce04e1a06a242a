"""What every chart begins with: a heading with its keys, axes with round numbers, and their grid."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from scorl.report import svg

__all__ = ["Axes", "choose_ticks", "draw_heading", "draw_x_grid", "draw_y_grid"]

Range = tuple[float, float]
LINE, KEY = 20, 13
"""Height of a line of the heading, and of its letters."""


@dataclass(frozen=True)
class Axes:
    """A rectangle of a drawing and what its edges stand for."""

    left: float
    top: float
    right: float
    bottom: float
    x_range: Range
    y_range: Range

    def x(self, value: float) -> float:
        """Where a value stands on the horizontal axis."""
        low, high = self.x_range
        return self.left + (value - low) / (high - low or 1) * (self.right - self.left)

    def y(self, value: float) -> float:
        """Where a value stands on the vertical axis, which points up."""
        low, high = self.y_range
        return self.bottom - (value - low) / (high - low or 1) * (self.bottom - self.top)


def draw_heading(title: str, keys: Sequence[tuple[str, str]], width: float) -> tuple[list[Element], float]:
    """The title and below it the keys, each (name, style), in as many lines as they need; and where these end."""
    shapes, x, y = [svg.text("title", 0, 14, title)], 0.0, 14.0 + LINE
    for name, style in keys:
        needed = 19 + svg.text_width(name, KEY)
        if x and x + needed > width:
            x, y = 0, y + LINE
        shapes += [svg.box(style, x, y - 6, 13, 3), svg.text("key", x + 19, y, name)]
        x += needed + 12
    return shapes, y


def draw_y_grid(axes: Axes, ticks: Sequence[float]) -> Iterator[Element]:
    """Horizontal grid lines, their numbers at the left."""
    for tick in ticks:
        y = axes.y(tick)
        yield svg.line("grid" if tick else "grid zero", axes.left, y, axes.right, y)
        yield svg.text("", axes.left - 6, y + 3.5, _short(tick), "end")


def draw_x_grid(axes: Axes, ticks: Sequence[float], lines: bool = True) -> Iterator[Element]:
    """Numbers below the axes, and vertical grid lines."""
    for tick in ticks:
        x = axes.x(tick)
        if lines:
            yield svg.line("grid" if tick else "grid zero", x, axes.top, x, axes.bottom)
        yield svg.text("", x, axes.bottom + 15, _short(tick), "middle")


def choose_ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers from just below `low` to just above `high`.

    >>> choose_ticks(3, 41)
    [0, 10, 20, 30, 40, 50]
    """
    span = high - low or abs(high) or 1
    power = 10 ** math.floor(math.log10(span))
    size = next(step * power for step in (0.2, 0.5, 1, 2, 5) if span / (step * power) <= 5)
    first = math.floor(low / size)
    return [k * size for k in range(first, max(first + 1, math.ceil(high / size)) + 1)]


def _short(number: float) -> str:
    """A tick's number, short.

    >>> _short(2500), _short(0.30000000000000004), _short(-20.0)
    ('2.5k', '0.3', '-20')
    """
    return f"{number / 1000:g}k" if abs(number) >= 1000 else f"{number:.4g}"
