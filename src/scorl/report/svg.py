"""Shapes of SVG and drawings made of them; what a model or a user wrote is escaped by the XML library.

A shape's class is its style, given by `chart.css`: `grid`, `line s1`, `bar s2`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Literal
from xml.etree.ElementTree import Element, tostring

__all__ = ["Drawing", "arrange", "box", "dot", "line", "polygon", "polyline", "text", "text_width"]

Anchor = Literal["start", "middle", "end"]
Spots = Iterable[tuple[float, float]]


@dataclass(frozen=True)
class Drawing:
    """A titled drawing, in pixels from its upper left corner."""

    title: str
    width: float
    height: float
    shapes: tuple[Element, ...]

    def __html__(self) -> str:
        """The drawing inside a page, whose style sheet includes `chart.css`; templates take it as it is."""
        return tostring(self._svg({}), encoding="unicode")

    def as_file(self) -> str:
        """The drawing as a file of its own, with its style."""
        svg = self._svg({"xmlns": "http://www.w3.org/2000/svg", "width": _short(self.width)})
        style = Element("style")
        style.text = files("scorl.report").joinpath("chart.css").read_text(encoding="utf-8")
        svg[:0] = [style, box("page", 0, 0, self.width, self.height)]
        return tostring(svg, encoding="unicode") + "\n"

    def _svg(self, attributes: dict[str, str]) -> Element:
        view = f"0 0 {_short(self.width)} {_short(self.height)}"
        svg = Element("svg", {"class": "chart", "viewBox": view, "role": "img", "aria-label": self.title} | attributes)
        svg.extend(self.shapes)
        return svg


def arrange(title: str, rows: Sequence[Sequence[Drawing]], gap: float = 24) -> Drawing:
    """Drawings as one, row by row."""
    shapes: list[Element] = []
    widest, y = 0.0, gap
    for row in rows:
        x = gap
        for drawing in row:
            group = Element("g", {"transform": f"translate({_short(x)},{_short(y)})"})
            group.extend(drawing.shapes)
            shapes.append(group)
            x += drawing.width + gap
        widest = max(widest, x)
        y += max(drawing.height for drawing in row) + gap
    return Drawing(title, widest, y, tuple(shapes))


def line(style: str, x1: float, y1: float, x2: float, y2: float) -> Element:
    """A straight line."""
    ends = {"x1": _short(x1), "y1": _short(y1), "x2": _short(x2), "y2": _short(y2)}
    return Element("line", {"class": style} | ends)


def polyline(style: str, spots: Spots) -> Element:
    """A line through spots."""
    return Element("polyline", {"class": style, "points": _points(spots)})


def polygon(style: str, spots: Spots) -> Element:
    """A filled area."""
    return Element("polygon", {"class": style, "points": _points(spots)})


def dot(style: str, x: float, y: float) -> Element:
    """A small disc."""
    return Element("circle", {"class": style, "cx": _short(x), "cy": _short(y), "r": "2.5"})


def box(style: str, x: float, y: float, width: float, height: float) -> Element:
    """A filled rectangle."""
    place = {"x": _short(x), "y": _short(y), "width": _short(width), "height": _short(height)}
    return Element("rect", {"class": style} | place)


def text(style: str, x: float, y: float, words: str, anchor: Anchor = "start") -> Element:
    """A line of text on the base line y."""
    shape = Element("text", {"class": style, "x": _short(x), "y": _short(y), "text-anchor": anchor})
    shape.text = words
    return shape


def text_width(words: str, size: float) -> float:
    """About how wide a text is: no font is at hand, and fonts differ."""
    return 0.58 * size * len(words)


def _points(spots: Spots) -> str:
    return " ".join(f"{_short(x)},{_short(y)}" for x, y in spots)


def _short(number: float) -> str:
    return f"{round(number, 1):g}"
