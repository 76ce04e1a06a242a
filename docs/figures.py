"""The two figures of the README, from the recorded results: python docs/figures.py writes them anew."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, tostring

DOCS = Path(__file__).parent
RESULTS = DOCS / "results" / "compare-countdown.json"
ROWS = {"base": "the model as it is", "single_turn": "single-turn RL", "multi_turn": "multi-turn RL", "score": "SCoRe"}
STYLE = """
.chart .page, .chart .card, .chart .first, .chart .second { rx: 8px; }
.chart .card { fill: #f3f4f1; } .chart .first { fill: #faeee5; } .chart .second { fill: #ecf3e4; }
.chart .head { font-size: 12px; fill: #62676e; } .chart .mono { font: 12.5px ui-monospace, monospace; fill: #1c1e21; }
.chart .note { font-size: 12.5px; fill: #1c1e21; } .chart .big { font-size: 15px; font-weight: 600; fill: #1c1e21; }
.chart .arrow { stroke: #8b9097; stroke-width: 1.5; } .chart .tip { fill: #8b9097; opacity: 1; }
.chart .move { stroke: currentColor; stroke-width: 3; }
.chart .s1.tip, .chart .s3.tip, .chart .s8.tip { fill: currentColor; }
.chart circle.ring { fill: #ffffff; stroke: currentColor; stroke-width: 2; r: 5px; }
.chart .value { font-size: 12.5px; fill: currentColor; font-weight: 600; }
@media (prefers-color-scheme: dark) {
  .chart .card { fill: #2a2e34; } .chart .first { fill: #3d2e24; } .chart .second { fill: #2b3822; }
  .chart .head { fill: #9aa0a8; } .chart .mono, .chart .note, .chart .big { fill: #e7e8e6; }
  .chart circle.ring { fill: #1d2024; }
}
"""
CARDS = {  # x, width, style, heading, text: a conversation of `make demo`, step 239
    "problem": (0, 150, "card", "problem", ("Reach 36 with", "the numbers", "12 11 7 4.")),
    "first": (180, 170, "first", "attempt 1", ("7*4=28 28+12=40",)),
    "message": (380, 170, "card", "correction", ("There might be an", "error. Check ...")),
    "second": (580, 240, "second", "attempt 2", ("Check: 7*4=28 ok,", "28+12=40 no.", "Try: 7-4=3 ok, 12*3=36 ok.")),
}
FIRST, SECOND = 265, 700
"""Where the columns of the two attempts have their middle."""
MARGIN = 24
STAGES = (  # what each attempt is credited with
    ("Stage I", "0, and a strict KL: stay as you are", "r2"),
    ("Stage II", "r1", "r2 + \N{GREEK SMALL LETTER ALPHA} (r2 \N{MINUS SIGN} r1)"),
)


def method() -> str:
    """A conversation, its rewards, and the credit of each attempt in both stages."""
    shapes = [style(), *conversation(y=24), *verdicts(y=150)]
    for row, (stage, first, second) in enumerate(STAGES):
        y = 206 + 38 * row
        shapes += [draw_box("card", 0, y, 820, 32), draw_text("big", 14, y + 21, stage)]
        shapes += [
            draw_text("note", FIRST, y + 21, first, "middle"),
            draw_text("note", SECOND, y + 21, second, "middle"),
        ]
    below = (
        "One loss for all: each attempt's tokens by its own credit, with a KL to the model that the run started from."
    )
    shapes.append(draw_text("head", 410, 304, below, "middle"))
    return to_svg("SCoRe: two attempts, a reward for each, a credit for each", 820, 312, shapes)


def conversation(y: float) -> Iterator[Element]:
    """The cards from the problem to the second attempt, with arrows between them."""
    yield draw_text("title", 0, y - 10, "A model answers, hears that there might be an error, and answers again")
    for x, width, kind, heading, lines in CARDS.values():
        if x:
            yield from arrow("arrow", "tip", (x - 27, y + 52), x - 4)
        yield draw_box(kind, x, y, width, 104)
        yield draw_text("head", x + 14, y + 24, heading)
        for place, words in enumerate(lines):
            yield draw_text("mono", x + 14, y + 50 + 19 * place, words)


def verdicts(y: float) -> Iterator[Element]:
    """What the verifier says about each attempt."""
    yield draw_text("big", 14, y + 25, "Verifier")
    for x, colour, words in ((FIRST, "s1", "wrong: r1 = 0"), (SECOND, "s3", "right: r2 = 1")):
        yield draw_line("arrow", x, y - 18, x, y + 4)
        yield draw_polygon("tip", [(x - 4, y + 4), (x + 4, y + 4), (x, y + 11)])
        yield draw_text(f"value {colour}", x, y + 27, words, "middle")
        yield draw_line("arrow", x, y + 36, x, y + 46)
        yield draw_polygon("tip", [(x - 4, y + 46), (x + 4, y + 46), (x, y + 53)])


def result(arms: dict[str, Any]) -> str:
    """For each method an arrow from the accuracy of first attempts to that of second ones."""
    top, bottom, seeds = 58, 58 + 44 * len(ROWS), len(arms["score"]["seeds"])
    shapes = [
        style(),
        draw_text("title", 0, 14, "Right answers, %: from the first attempt (ring) to the second (tip)"),
        draw_text("key", 0, 36, f"500 held-out countdown problems; mean of {seeds} seeds; Delta with its 95% interval"),
        *draw_grid(top, bottom, range(40, 70, 5)),
    ]
    for row, (name, label) in enumerate(ROWS.items()):
        y = top + 44 * (row + 0.5)
        first, second, delta = (arms[name]["metrics"][key] for key in ("accuracy_t1", "accuracy_t2", "delta"))
        start, end = place_share(100 * first["mean"]), place_share(100 * second["mean"])
        colour = "s3" if delta["low"] > 0 else "s1" if delta["high"] < 0 else "s8"
        shapes.append(draw_text("big" if name == "score" else "note", 0, y + 5, label))
        shapes += arrow(f"move {colour}", f"tip {colour}", (start, y), end, size=7)
        shapes.append(draw_dot(f"ring {colour}", start, y))
        words = "{:+.1f} [{:+.1f}, {:+.1f}]".format(*(100 * delta[key] for key in ("mean", "low", "high")))
        shapes.append(draw_text(f"value {colour}", 620, y + 5, words.replace("-", "\N{MINUS SIGN}")))
    shapes += [draw_text("head", 620, bottom + 15, "Delta"), draw_text("head", 0, bottom + 15, "accuracy")]
    return to_svg("Accuracy of first and second attempts by method", 820, bottom + 20, shapes)


def arrow(line: str, tip: str, start: tuple[float, float], end: float, size: float = 4) -> list[Element]:
    """A horizontal arrow."""
    x, y = start
    back = end - size * 1.7 if end > x else end + size * 1.7
    head = draw_polygon(tip, [(back, y - size), (back, y + size), (end, y)])
    return [draw_line(line, x, y, back, y), head]


def style() -> Element:
    """What these figures have beside the report's style."""
    element = Element("style")
    element.text = STYLE
    return element


def draw_grid(top: float, bottom: float, ticks: Iterable[int]) -> Iterator[Element]:
    """Vertical lines, with their percents below."""
    for tick in ticks:
        x = place_share(tick)
        yield draw_line("grid", x, top, x, bottom)
        yield draw_text("", x, bottom + 15, str(tick), "middle")


def place_share(percent: float) -> float:
    """Where a rate stands: 40 to 68 percent are drawn."""
    return 150 + (percent - 40) / 28 * 450


def draw_line(style: str, x1: float, y1: float, x2: float, y2: float) -> Element:
    """A straight line; the class of a shape is its style in chart.css."""
    return Element("line", {"class": style, "x1": short(x1), "y1": short(y1), "x2": short(x2), "y2": short(y2)})


def draw_polygon(style: str, spots: Iterable[tuple[float, float]]) -> Element:
    """A filled area."""
    return Element("polygon", {"class": style, "points": " ".join(f"{short(x)},{short(y)}" for x, y in spots)})


def draw_dot(style: str, x: float, y: float) -> Element:
    """A small disc."""
    return Element("circle", {"class": style, "cx": short(x), "cy": short(y), "r": "2.5"})


def draw_box(style: str, x: float, y: float, width: float, height: float) -> Element:
    """A filled rectangle."""
    size = {"x": short(x), "y": short(y), "width": short(width), "height": short(height)}
    return Element("rect", {"class": style} | size)


def draw_text(style: str, x: float, y: float, words: str, anchor: str = "start") -> Element:
    """A line of text on the base line y."""
    shape = Element("text", {"class": style, "x": short(x), "y": short(y), "text-anchor": anchor})
    shape.text = words
    return shape


def short(number: float) -> str:
    """A number of pixels."""
    return f"{round(number, 1):g}"


def to_svg(title: str, width: float, height: float, shapes: Iterable[Element]) -> str:
    """A file with its style and a margin."""
    size = short(width + 2 * MARGIN), short(height + 2 * MARGIN)
    view = {"viewBox": f"0 0 {' '.join(size)}", "role": "img", "aria-label": title}
    svg = Element("svg", {"class": "chart"} | view | {"xmlns": "http://www.w3.org/2000/svg", "width": size[0]})
    look = Element("style")
    look.text = (DOCS / "figures" / "chart.css").read_text(encoding="utf-8")
    group = Element("g", {"transform": f"translate({MARGIN},{MARGIN})"})
    group.extend(shapes)
    svg.extend([look, draw_box("page", 0, 0, width + 2 * MARGIN, height + 2 * MARGIN), group])
    return tostring(svg, encoding="unicode") + "\n"


def figures() -> dict[str, str]:
    """Each file's name and content."""
    arms = json.loads(RESULTS.read_text(encoding="utf-8"))["arms"]
    return {"method.svg": method(), "result.svg": result(arms)}


if __name__ == "__main__":
    for name, content in figures().items():
        (DOCS / "figures" / name).write_text(content, encoding="utf-8")
