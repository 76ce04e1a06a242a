"""Live progress of a run: one line that renews itself in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from scorl.metrics import HEADLINES, VERIFIED
from scorl.text_files import make_visible

__all__ = ["ProgressLine", "describe_step", "format_duration"]

SMOOTHED = 20
"""Steps over which the rate is taken."""


class ProgressLine:
    """Shows the lines of steps.jsonl as they come; a context manager.

    Args:
        total: steps of the whole run.
        console: where to; standard error by default.
        pause: seconds between two plain lines; the last line of a stage is always shown.
    """

    def __init__(self, total: int, console: Console | None = None, pause: float = 5.0) -> None:
        self._total = total
        self._console = console or Console(stderr=True)
        self._pause = pause
        self._shown_at = float("-inf")
        self._seconds: deque[float] = deque(maxlen=SMOOTHED)
        self._pending: tuple[str, str] | None = None
        self._live = Live(console=self._console, refresh_per_second=4) if self._console.is_terminal else None

    def __enter__(self) -> ProgressLine:
        if self._live:
            self._live.start()
            self._live.update(Text("the first evaluation and the first step are under way ..."))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()
        else:
            self._print_pending()

    def __call__(self, line: Mapping[str, Any]) -> None:
        """Show a step."""
        self._seconds.append(sum(line["seconds"].values()))
        text = describe_step(line, self._total, sum(self._seconds) / len(self._seconds))
        if self._live:
            self._live.update(Text(text, no_wrap=True, overflow="ellipsis"))
        else:
            self._plain(line["stage"], text)

    def between(self, what: str, done: int, total: int) -> None:
        """Show how far an evaluation (in problems) or a collection (in steps) is."""
        text = make_visible(f"{what}: {done}/{total}")
        if self._live:
            self._live.update(Text(text))
        else:
            self._plain(what, text)

    def _plain(self, stage: str, text: str) -> None:
        if self._pending and self._pending[0] != stage:
            self._print_pending()
        self._pending = (stage, text)
        if time.monotonic() - self._shown_at >= self._pause:
            self._print_pending()

    def _print_pending(self) -> None:
        if self._pending:
            self._console.print(Text(self._pending[1]), soft_wrap=True)
            self._shown_at, self._pending = time.monotonic(), None


def describe_step(line: Mapping[str, Any], total: int, seconds: float) -> str:
    """A step in a line: stage, place, rate, time left, the headline rates in percent, KL per turn.

    Args:
        line: of steps.jsonl; what is null is left out.
        total: steps of the whole run.
        seconds: a step takes, of late.
    """
    done = line["step"] + 1
    parts = [
        f"{line['stage']} {done}/{total}",
        f"{seconds:.2f} s/step",
        f"{format_duration(seconds * (total - done))} left",
    ]
    for name, key in (HEADLINES | VERIFIED).items():
        if line.get(key) is not None:
            parts.append(f"{name} {100 * line[key]:{'+' if name == 'Delta' else ''}.1f}")
    divergences = [f"{line[key]:.3f}" for key in ("kl_t1", "kl_t2") if line.get(key) is not None]
    if divergences:
        parts.append(f"KL {' '.join(divergences)}")
    if line.get("frac_reward_zero_std"):
        parts.append(f"no advantage {100 * line['frac_reward_zero_std']:.0f}")
    if line.get("loss") is not None:
        parts.append(f"loss {line['loss']:.3f}")
    parts += [f"ALARM {alarm['kind'].replace('_', ' ')}" for alarm in line.get("alarms", ())]
    return make_visible("  ".join(parts))  # a recipe names the stage


def format_duration(seconds: float) -> str:
    """A duration for people.

    >>> format_duration(75.2), format_duration(3600)
    ('1:15', '1:00:00')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
