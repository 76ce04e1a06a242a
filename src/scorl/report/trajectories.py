"""Trajectories as people read them: every response in its order, how it was judged, and what changed marked."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any, Literal

from scorl.errors import UserError, nearest
from scorl.run.files import Record
from scorl.text_files import make_visible

__all__ = [
    "FLIPS",
    "Piece",
    "ShownResponse",
    "ShownTrajectory",
    "attempts_of",
    "flip_class",
    "gather_trajectories",
    "mark_changes",
    "present",
    "select",
]

FLIPS = {
    "fixed": "wrong, then right",
    "broken": "right, then wrong",
    "right": "right both times",
    "wrong": "wrong both times",
}
"""The flip classes of a trajectory with at least two attempts."""

Piece = tuple[str, Literal["", "gone", "new"]]
"""Some text, and whether it is gone from the first attempt or new in a later one."""


@dataclass(frozen=True)
class ShownResponse:
    """A response as it is shown."""

    label: str
    """What it is and what the verifier said about it: `attempt 2: incorrect (6 is not 4)`."""
    right: bool | None
    """None: nobody judged it."""
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class ShownTrajectory:
    """A trajectory as it is shown."""

    heading: str
    flip: str | None
    """Its flip class; None for a single attempt."""
    question: str
    gold: str | None
    """The answer that it is judged by; lines of older runs name none."""
    responses: tuple[ShownResponse, ...]


def select(lines: Iterable[Record], *, flip: str | None = None, problem: str | None = None) -> Iterator[list[Record]]:
    """The trajectories, as their responses' lines, of a flip class and a problem; None: of any.

    Raises:
        UserError: `flip` is no flip class.
    """
    if flip is not None and flip not in FLIPS:
        raise UserError(f"no flip class '{flip}': {nearest(flip, FLIPS)}")
    wanted = (line for line in lines if problem in (None, line["problem"]))
    return (t for t in gather_trajectories(wanted) if flip is None or flip_class(t) == flip)


def gather_trajectories(lines: Iterable[Record]) -> Iterator[list[Record]]:
    """The responses of each (step, problem, sample, branch, model, wording) in their order; holds one step at a time.

    The last two tell evaluations apart that `scorl evaluate` wrote into one file.
    """
    for _, of_step in groupby(lines, key=lambda line: line["step"]):
        gathered: dict[tuple[Any, ...], list[Record]] = {}
        for line in of_step:
            names = line.get("model"), line.get("wording")
            gathered.setdefault((line["problem"], line["sample"], line.get("branch", 0), *names), []).append(line)
        yield from (sorted(responses, key=_place) for responses in gathered.values())


def attempts_of(responses: list[Record]) -> list[Record]:
    """The attempts among responses."""
    return [response for response in responses if _role(response) == "attempt"]


def flip_class(responses: list[Record]) -> str | None:
    """The flip class of a trajectory; None for a single attempt."""
    attempts = attempts_of(responses)
    if len(attempts) < 2:
        return None
    first, second = (_is_right(attempt) for attempt in attempts[:2])
    return ("right" if second else "broken") if first else ("fixed" if second else "wrong")


def present(responses: list[Record]) -> ShownTrajectory:
    """The trajectory for people; the first attempt is marked against the second, every other against the one before."""
    first, flip = responses[0], flip_class(responses)
    marked = iter(_mark_attempts(attempts_of(responses)))
    shown = (
        ShownResponse(
            _label(response),
            _is_right(response),
            tuple(next(marked) if _role(response) == "attempt" else [_unmarked(response)]),
        )
        for response in responses
    )
    place = f"step {first['step']}, problem {first['problem']}, sample {first['sample']}"
    place += "".join(f", {name} {first[name]}" for name in ("model", "wording") if first.get(name))
    heading = make_visible(f"{place}: {FLIPS[flip]}" if flip else place)
    gold = make_visible(first["gold"]) if "gold" in first else None
    return ShownTrajectory(heading, flip, make_visible(first.get("question", "")), gold, tuple(shown))


def mark_changes(first: str, second: str) -> tuple[list[Piece], list[Piece]]:
    """Both texts in pieces, compared by whole words, numbers and signs.

    >>> mark_changes("21-5=17", "21-5=16")
    ([('21-5=', ''), ('17', 'gone')], [('21-5=', ''), ('16', 'new')])
    """
    a, b = (re.findall(r"\s+|\w+|[^\w\s]", text) for text in (first, second))
    old: list[Piece] = []
    new: list[Piece] = []
    blocks = difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes()
    for n, (tag, i, j, k, m) in enumerate(blocks):
        # a space between two changes belongs to the change
        changed = tag != "equal" or (0 < n < len(blocks) - 1 and "".join(a[i:j]).isspace())
        old.append(("".join(a[i:j]), "gone" if changed else ""))
        new.append(("".join(b[k:m]), "new" if changed else ""))
    return _merge(old), _merge(new)


def _merge(pieces: list[Piece]) -> list[Piece]:
    """Neighbours with the same mark as one piece; empty ones are left out."""
    runs = groupby(pieces, key=lambda piece: piece[1])
    return [(text, mark) for mark, run in runs if (text := "".join(piece for piece, _ in run))]


def _mark_attempts(attempts: list[Record]) -> list[list[Piece]]:
    if len(attempts) < 2:
        return [[_unmarked(attempt)] for attempt in attempts]
    pairs = [mark_changes(*pair) for pair in pairwise(make_visible(attempt["text"]) for attempt in attempts)]
    return [pairs[0][0], *(new for _, new in pairs)]


def _unmarked(response: Record) -> Piece:
    return make_visible(response["text"]), ""


def _label(response: Record) -> str:
    role = _role(response)
    name = f"{'' if role == 'attempt' else f'{role} of '}attempt {response['turn'] + 1}"
    outcome = response.get("verdict", response["reward"])
    said = "" if outcome is None else f": {outcome}"
    reason = f" ({response['reason']})" if response.get("reason") else ""
    cut = ", cut at the token limit" if response["finish"] == "length" else ""
    return make_visible(name + said + reason + cut)


def _role(response: Record) -> str:
    """Lines of older runs name no role: they are attempts."""
    return str(response.get("role", "attempt"))


def _place(response: Record) -> int:
    """Where it stands in the conversation; lines of older runs say the number of the attempt alone."""
    return int(response["place"] if "place" in response else response["turn"])


def _is_right(response: Record) -> bool | None:
    return None if response["reward"] is None else bool(response["reward"] >= 0.5)
