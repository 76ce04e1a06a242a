"""The two figures of the README, from the recorded results: python docs/figures.py writes them anew."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

from scorl.report import svg
from scorl.report.axes import Axes, draw_x_grid
from scorl.report.svg import Drawing

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
STAGES = (  # what each attempt is credited with
    ("Stage I", "0, and a strict KL: stay as you are", "r2"),
    ("Stage II", "r1", "r2 + \N{GREEK SMALL LETTER ALPHA} (r2 \N{MINUS SIGN} r1)"),
)


def method() -> Drawing:
    """A conversation, its rewards, and the credit of each attempt in both stages."""
    shapes = [style(), *conversation(y=24), *verdicts(y=150)]
    for row, (stage, first, second) in enumerate(STAGES):
        y = 206 + 38 * row
        shapes += [svg.box("card", 0, y, 820, 32), svg.text("big", 14, y + 21, stage)]
        shapes += [svg.text("note", FIRST, y + 21, first, "middle"), svg.text("note", SECOND, y + 21, second, "middle")]
    below = (
        "One loss for all: each attempt's tokens by its own credit, with a KL to the model that the run started from."
    )
    shapes.append(svg.text("head", 410, 304, below, "middle"))
    return svg.arrange("SCoRe: two attempts, a reward for each, a credit for each", [[frame(820, 312, shapes)]])


def conversation(y: float) -> Iterator[Element]:
    """The cards from the problem to the second attempt, with arrows between them."""
    yield svg.text("title", 0, y - 10, "A model answers, hears that there might be an error, and answers again")
    for x, width, kind, heading, lines in CARDS.values():
        if x:
            yield from arrow("arrow", "tip", (x - 27, y + 52), x - 4)
        yield svg.box(kind, x, y, width, 104)
        yield svg.text("head", x + 14, y + 24, heading)
        for place, words in enumerate(lines):
            yield svg.text("mono", x + 14, y + 50 + 19 * place, words)


def verdicts(y: float) -> Iterator[Element]:
    """What the verifier says about each attempt."""
    yield svg.text("big", 14, y + 25, "Verifier")
    for x, colour, words in ((FIRST, "s1", "wrong: r1 = 0"), (SECOND, "s3", "right: r2 = 1")):
        yield svg.line("arrow", x, y - 18, x, y + 4)
        yield svg.polygon("tip", [(x - 4, y + 4), (x + 4, y + 4), (x, y + 11)])
        yield svg.text(f"value {colour}", x, y + 27, words, "middle")
        yield svg.line("arrow", x, y + 36, x, y + 46)
        yield svg.polygon("tip", [(x - 4, y + 46), (x + 4, y + 46), (x, y + 53)])


def result(arms: dict[str, Any]) -> Drawing:
    """For each method an arrow from the accuracy of first attempts to that of second ones."""
    axes = Axes(150, 58, 600, 58 + 44 * len(ROWS), (40, 68), (0, 1))
    shapes = [
        style(),
        svg.text("title", 0, 14, "Right answers, %: from the first attempt (ring) to the second (tip)"),
        svg.text("key", 0, 36, "500 held-out countdown problems; mean of five seeds; Delta with its 95% interval"),
        *draw_x_grid(axes, range(40, 70, 5)),
    ]
    for row, (name, label) in enumerate(ROWS.items()):
        y = axes.top + 44 * (row + 0.5)
        first, second, delta = (arms[name]["metrics"][key] for key in ("accuracy_t1", "accuracy_t2", "delta"))
        start, end = axes.x(100 * first["mean"]), axes.x(100 * second["mean"])
        colour = "s3" if delta["low"] > 0 else "s1" if delta["high"] < 0 else "s8"
        shapes.append(svg.text("big" if name == "score" else "note", 0, y + 5, label))
        shapes += arrow(f"move {colour}", f"tip {colour}", (start, y), end, size=7)
        shapes.append(svg.dot(f"ring {colour}", start, y))
        words = "{:+.1f} [{:+.1f}, {:+.1f}]".format(*(100 * delta[key] for key in ("mean", "low", "high")))
        shapes.append(svg.text(f"value {colour}", 620, y + 5, words.replace("-", "\N{MINUS SIGN}")))
    shapes += [svg.text("head", 620, axes.bottom + 15, "Delta"), svg.text("head", 0, axes.bottom + 15, "accuracy")]
    return svg.arrange("Accuracy of first and second attempts by method", [[frame(820, axes.bottom + 20, shapes)]])


def arrow(line: str, tip: str, start: tuple[float, float], end: float, size: float = 4) -> list[Element]:
    """A horizontal arrow."""
    x, y = start
    back = end - size * 1.7 if end > x else end + size * 1.7
    head = svg.polygon(tip, [(back, y - size), (back, y + size), (end, y)])
    return [svg.line(line, x, y, back, y), head]


def style() -> Element:
    """What these figures have beside the report's style."""
    element = Element("style")
    element.text = STYLE
    return element


def frame(width: float, height: float, shapes: list[Element]) -> Drawing:
    """A drawing without a title of its own."""
    return Drawing("", width, height, tuple(shapes))


def figures() -> dict[str, str]:
    """Each file's name and content."""
    arms = json.loads(RESULTS.read_text(encoding="utf-8"))["arms"]
    return {"method.svg": method().as_file(), "result.svg": result(arms).as_file()}


if __name__ == "__main__":
    for name, content in figures().items():
        (DOCS / "figures" / name).write_text(content, encoding="utf-8")
