"""The lines of steps.jsonl, sent to TensorBoard, Weights & Biases or Trackio as well."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from scorl.errors import UserError
from scorl.run.directory import RunDirectory

__all__ = ["LOGGERS", "Logger", "missing_loggers", "open_loggers"]

Logger = Callable[[int, Mapping[str, float]], None]
"""Takes the step and its figures."""


@contextmanager
def open_loggers(
    names: Sequence[str], directory: RunDirectory, recipe: Mapping[str, Any]
) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """A function that sends a step's record to every named logger, until the block ends.

    Raises:
        UserError: a logger is not installed.
    """
    for name in missing_loggers(names):
        raise UserError(f"loggers: {name} is not installed: pip install 'scorl[loggers]'")
    with ExitStack() as stack:
        opened = [stack.enter_context(LOGGERS[name](directory, recipe)) for name in names]

        def send(line: Mapping[str, Any]) -> None:
            for logger in opened:
                logger(line["step"], dict(_figures(line)))

        yield send


def missing_loggers(names: Iterable[str]) -> list[str]:
    """The loggers among `names` that are not installed."""
    return [name for name in names if not importlib.util.find_spec(name)]


def _figures(line: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """The figures of a line with their names; nested ones as `seconds/learn`, undefined ones left out.

    >>> list(_figures({"step": 3, "stage": "one", "delta": None, "seconds": {"learn": 1.5}}))
    [('seconds/learn', 1.5)]
    """
    for key, value in line.items():
        if isinstance(value, Mapping):
            yield from _figures(value, f"{prefix}{key}/")
        elif isinstance(value, (int, float)) and key != "step":
            yield prefix + key, float(value)


@contextmanager
def _tensorboard(directory: RunDirectory, recipe: Mapping[str, Any]) -> Iterator[Logger]:
    from torch.utils.tensorboard import SummaryWriter

    writer: Any = SummaryWriter(str(directory.tensorboard))

    def log(step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            writer.add_scalar(name, value, step)

    try:
        yield log
    finally:
        writer.close()


@contextmanager
def _wandb(directory: RunDirectory, recipe: Mapping[str, Any]) -> Iterator[Logger]:
    import wandb

    run = wandb.init(project="scorl", name=directory.path.name, dir=str(directory.path), config=dict(recipe))
    try:
        yield lambda step, figures: run.log(dict(figures), step=step)
    finally:
        run.finish()


@contextmanager
def _trackio(directory: RunDirectory, recipe: Mapping[str, Any]) -> Iterator[Logger]:
    import trackio

    trackio.init(project="scorl", name=directory.path.name, config=dict(recipe))
    try:
        yield lambda step, figures: trackio.log(dict(figures), step=step)
    finally:
        trackio.finish()


LOGGERS = {"tensorboard": _tensorboard, "wandb": _wandb, "trackio": _trackio}
"""The names that recipes use; each opens a logger for a run directory."""
