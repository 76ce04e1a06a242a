"""Reading trajectories: both attempts side by side, with what changed marked."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from itertools import groupby, islice, pairwise
from pathlib import Path

from rich.console import Console
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from scorl.errors import UserError, nearest
from scorl.run.directory import read_attempts
from scorl.run.files import Record

__all__ = ["FLIPS", "Piece", "changes", "flip_class", "marked", "select", "show", "trajectories", "visible"]

FLIPS = {
    "fixed": "wrong, then right",
    "broken": "right, then wrong",
    "right": "right both times",
    "wrong": "wrong both times",
}
"""The flip classes of a trajectory with at least two attempts."""

Piece = tuple[str, bool]
"""Some text, and whether it changed."""

UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def show(
    path: Path | str,
    console: Console,
    *,
    flip: str | None = None,
    step: int | None = None,
    problem: str | None = None,
    limit: int | None = 10,
) -> int:
    """Prints the matching trajectories of a run or attempts file, at most `limit`; returns how many.

    On a terminal attempts stand side by side; elsewhere one below the other, with `[-gone-]` and `{+new+}`.

    Raises:
        UserError: there is nothing to read, or `flip` is no flip class.
    """
    found = 0
    for attempts in islice(select(read_attempts(path), flip=flip, step=step, problem=problem), limit):
        found += 1
        (_side_by_side if console.is_terminal else _plain)(console, attempts)
    return found


def select(
    lines: Iterable[Record], *, flip: str | None = None, step: int | None = None, problem: str | None = None
) -> Iterator[list[Record]]:
    """The trajectories, as their attempts' lines, of a flip class, a step and a problem; None: of any.

    Raises:
        UserError: `flip` is no flip class.
    """
    if flip is not None and flip not in FLIPS:
        raise UserError(f"no flip class '{flip}': {nearest(flip, FLIPS)}")
    wanted = (
        line
        for line in lines
        if (step is None or line["step"] == step) and (problem is None or line["problem"] == problem)
    )
    return (t for t in trajectories(wanted) if flip is None or flip_class(t) == flip)


def trajectories(lines: Iterable[Record]) -> Iterator[list[Record]]:
    """Attempts' lines gathered by (step, problem, sample, branch), by turn; holds one step at a time."""
    for _, of_step in groupby(lines, key=lambda line: line["step"]):
        gathered: dict[tuple[str, int, int], list[Record]] = {}
        for line in of_step:
            gathered.setdefault((line["problem"], line["sample"], line.get("branch", 0)), []).append(line)
        yield from (sorted(attempts, key=lambda line: line["turn"]) for attempts in gathered.values())


def flip_class(attempts: list[Record]) -> str | None:
    """The flip class of a trajectory; None for a single attempt."""
    if len(attempts) < 2:
        return None
    first, second = (attempt["reward"] >= 0.5 for attempt in attempts[:2])
    return ("right" if second else "broken") if first else ("fixed" if second else "wrong")


def changes(first: str, second: str) -> tuple[list[Piece], list[Piece]]:
    """Both texts in pieces; changed pieces are gone from the first, new in the second.

    Words, numbers and signs are compared whole.

    >>> changes("21-5=17", "21-5=16")
    ([('21-5=', False), ('17', True)], [('21-5=', False), ('16', True)])
    """
    a, b = (re.findall(r"\s+|\w+|[^\w\s]", text) for text in (first, second))
    old: list[Piece] = []
    new: list[Piece] = []
    blocks = difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes()
    for n, (tag, i, j, k, m) in enumerate(blocks):
        # a space between two changes belongs to the change
        changed = tag != "equal" or (0 < n < len(blocks) - 1 and "".join(a[i:j]).isspace())
        old.append(("".join(a[i:j]), changed))
        new.append(("".join(b[k:m]), changed))
    return _joined(old), _joined(new)


def _joined(pieces: list[Piece]) -> list[Piece]:
    runs = groupby(pieces, key=lambda piece: piece[1])
    return [(text, changed) for changed, run in runs if (text := "".join(piece for piece, _ in run))]


def marked(attempts: list[Record]) -> list[list[Piece]]:
    """Each attempt's text in pieces: the first against the second, every other against the one before."""
    texts = [visible(attempt["text"]) for attempt in attempts]
    if len(texts) == 1:
        return [[(texts[0], False)]]
    return [changes(*texts[:2])[0]] + [changes(a, b)[1] for a, b in pairwise(texts)]


def heading(attempts: list[Record]) -> str:
    """Which trajectory this is, in a line."""
    first, kind = attempts[0], flip_class(attempts)
    place = f"step {first['step']}, problem {first['problem']}, sample {first['sample']}"
    return visible(f"{place}: {FLIPS[kind]}" if kind else place)


def judgement(attempt: Record) -> str:
    """What the verifier said about an attempt, in a line."""
    reason = f" ({attempt['reason']})" if attempt.get("reason") else ""
    cut = ", cut at the token limit" if attempt["finish"] == "length" else ""
    return visible(f"attempt {attempt['turn'] + 1}: {attempt.get('verdict', attempt['reward'])}{reason}{cut}")


def visible(text: str) -> str:
    """The text without control characters, which a model may write and a terminal would obey."""
    return UNSEEN.sub("\N{REPLACEMENT CHARACTER}", text)


def _side_by_side(console: Console, attempts: list[Record]) -> None:
    console.print(Rule(Text(heading(attempts), style="bold"), align="left"))
    console.print(Text(visible(attempts[0].get("question", "")), style="dim"))
    table = Table(expand=True, show_lines=False)
    cells = []
    for k, pieces in enumerate(marked(attempts)):
        right = attempts[k]["reward"] >= 0.5
        table.add_column(Text(judgement(attempts[k]), style="green" if right else "red"), ratio=1)
        style = "black on green" if k else "black on red"
        cells.append(Text.assemble(*((text, style if changed else "") for text, changed in pieces)))
    table.add_row(*cells)
    console.print(table)


def _plain(console: Console, attempts: list[Record]) -> None:
    parts = [f"== {heading(attempts)}", visible(attempts[0].get("question", ""))]
    for k, pieces in enumerate(marked(attempts)):
        before, after = ("{+", "+}") if k else ("[-", "-]")
        text = "".join(f"{before}{piece}{after}" if changed else piece for piece, changed in pieces)
        parts += [f"-- {judgement(attempts[k])}", text]
    console.print(Text("\n".join(parts) + "\n"), soft_wrap=True)
