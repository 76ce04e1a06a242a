"""A conversation in a terminal or a pipe, while it is written: attempts, what changed in them, the final answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

from scorl.report.trajectories import Piece, mark_changes
from scorl.tasks.turns import Turn
from scorl.text_files import make_visible
from scorl.trajectory import Finish, Problem, Role

__all__ = ["Transcript", "merge_changes"]

STYLES = {"": "", "gone": "red strike", "new": "black on green"}
BRACKETS = {"": "{}", "gone": "[-{}-]", "new": "{{+{}+}}"}
FRAMES_PER_SECOND = 10


@dataclass
class Transcript:
    """Writes responses as they are heard (see `scorl.inference.solving.Listener`).

    A terminal shows a response while it is written and, where it is a later attempt, marks what changed once it has
    ended. A pipe gets the first attempt while it is written, and the others whole.
    """

    console: Console
    problem: Problem
    turns: Sequence[Turn]
    _texts: dict[Role, str] = field(default_factory=dict, init=False)
    """The latest response of each role."""
    _place: int = field(default=-1, init=False)
    _attempt: int = field(default=0, init=False)
    _text: str = field(default="", init=False)
    _live: Live | None = field(default=None, init=False)

    def begin(self) -> None:
        """What the user says, and what the response to it is."""
        self._place, self._text = self._place + 1, ""
        self._attempt += self._role == "attempt"
        if self._place:
            said = make_visible(self.turns[self._place - 1].ask(self.problem))
            self.console.print(Text(f"> {said}", style="dim"), soft_wrap=True)
        name = "attempt" if self._role == "attempt" else f"{self._role} of attempt"
        self.console.print(Text(f"{name} {self._attempt}", style="bold"))
        if self.console.is_terminal:
            self._live = Live(
                console=self.console,
                get_renderable=self._tail,
                refresh_per_second=FRAMES_PER_SECOND,
                transient=True,
            )
            self._live.start()

    def hear(self, piece: str) -> None:
        """Some of the response, without what a terminal would obey."""
        piece = make_visible(piece)
        self._text += piece
        if not self._live and not self._is_compared:
            self.console.print(Text(piece), end="", soft_wrap=True)

    def end(self, finish: Finish) -> None:
        """The whole response, with what changed marked."""
        self.close()
        if self.console.is_terminal or self._is_compared:
            self.console.print(self._marked(), end="", soft_wrap=True)
        self.console.print()
        if self._is_compared and self._text == self._texts["attempt"]:
            self.console.print(Text("(unchanged)", style="dim"))
        if finish == "length":
            why = "cut at the token limit" if self._text else "no room is left in the model's context"
            self.console.print(Text(f"({why})", style="yellow"))
        self.console.print()
        self._texts[self._role] = self._text

    def conclude(self, answer: str | None, votes: Sequence[tuple[str, int]] = (), samples: int = 1) -> None:
        """The final answer by itself, with the votes where there were several samples."""
        for given, count in votes if samples > 1 else ():
            self.console.print(
                Text(f"{count} of {samples} samples: {make_visible(given)}", style="dim"), soft_wrap=True
            )
        text = Text("no final answer was found" if answer is None else make_visible(answer), style="bold")
        if self.console.is_terminal:
            self.console.print(Panel(text, title="final answer", title_align="left", expand=False))
        else:
            self.console.print(Text("final answer"), text, sep="\n", soft_wrap=True)

    def close(self) -> None:
        """Leave the terminal as it was, also in the middle of a response."""
        if self._live:
            self._live.stop()
            self._live = None

    @property
    def _role(self) -> Role:
        return self.turns[self._place - 1].role if self._place else "attempt"

    @property
    def _is_compared(self) -> bool:
        return self._role == "attempt" and "attempt" in self._texts

    def _tail(self) -> Text:
        """As much of the end as the terminal has room for: what scrolls away cannot be written anew."""
        lines = Text(self._text).wrap(self.console, self.console.width)
        return Text("\n").join(lines[-max(1, self.console.height - 2) :])

    def _marked(self) -> Text:
        if not self._is_compared:
            return Text(self._text)
        pieces = merge_changes(*mark_changes(self._texts["attempt"], self._text))
        if self.console.is_terminal:
            return Text.assemble(*((text, STYLES[mark]) for text, mark in pieces))
        return Text("".join(BRACKETS[mark].format(text) for text, mark in pieces))


def merge_changes(old: Sequence[Piece], new: Sequence[Piece]) -> list[Piece]:
    """Both sides of `mark_changes` in one text: what is gone stands where it was, what is new behind it.

    >>> merge_changes([("21-5=", ""), ("17", "gone")], [("21-5=", ""), ("16", "new")])
    [('21-5=', ''), ('17', 'gone'), ('16', 'new')]
    """
    merged: list[Piece] = []
    left, right = list(old), list(new)
    while left or right:
        if left and left[0][1]:
            merged.append(left.pop(0))
        elif right and right[0][1]:
            merged.append(right.pop(0))
        else:  # the same words on both sides, as far as the shorter piece goes
            size = min(len(side[0][0]) for side in (left, right) if side)
            merged.append(((left or right)[0][0][:size], ""))
            for side in (left, right):
                if side:
                    side[0] = (side[0][0][size:], "")
                    side[:] = side[not side[0][0] :]
    return merged
