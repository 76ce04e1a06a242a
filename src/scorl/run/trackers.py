"""TensorBoard, Weights & Biases, Trackio and MLflow: each opened, told of figures, words and tables, and resumed.

What models write goes into tables; to whatever shows it, it may be hostile.
"""

from __future__ import annotations

import html
import importlib
import os
import secrets
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from scorl.errors import UserError
from scorl.recipe.sections import Recipe
from scorl.recipe.source import RECIPE_FILE
from scorl.recipe.yaml_text import to_yaml
from scorl.run.directory import RunDirectory

__all__ = ["MODULES", "TRACKERS", "Rows", "TrackedRun", "Tracker", "check_trackers"]

AXIS = "train/global_step"
"""What Weights & Biases lays figures over, as transformers names it."""


Rows = Sequence[Mapping[str, str]]
"""A table: in each row the same columns."""


@dataclass(frozen=True)
class Tracker:
    """One that is open."""

    log: Callable[[int, Mapping[str, float]], None]
    """Takes a step and its figures."""
    say: Callable[[int, str, str], None]
    """Takes a step, a title and a text."""
    tabulate: Callable[[int, str, Rows], None]
    """Takes a step, a name and a table."""


@dataclass(frozen=True)
class TrackedRun:
    """The run that a tracker is opened for."""

    directory: RunDirectory
    recipe: Recipe
    config: Mapping[str, Any]
    """The recipe as a mapping, with the versions and without secrets."""
    updates: int
    """Made so far."""
    before: str | None
    """What the tracker called this run when it was first opened."""

    @property
    def name(self) -> str:
        """What people read."""
        return self.recipe.logging.run_name or self.directory.path.resolve().name

    def project(self, variable: str) -> str:
        """The project: the recipe's, else what the tracker's own environment variable says."""
        return self.recipe.logging.project or os.environ.get(variable) or "scorl"


def check_trackers(names: Iterable[str]) -> None:
    """Refuse what would fail when it is opened, before a model is loaded.

    Raises:
        UserError: a tracker cannot be imported, or Weights & Biases has no key.
    """
    for name in names:
        try:
            module = importlib.import_module(MODULES.get(name, name))
        except ImportError as error:
            raise UserError(f"loggers: {name} cannot be imported ({error}): {INSTALL.get(name, INSTALL[''])}") from None
        if name == "wandb" and os.environ.get("WANDB_MODE", "online") == "online":
            with refused("wandb", module.errors.Error):
                module.login()


@contextmanager
def refused(name: str, kind: type[Exception]) -> Iterator[None]:
    """A tracker's own errors as the user's."""
    try:
        yield
    except kind as error:
        raise UserError(f"loggers: {name} refuses: {str(error).strip()} {HINTS[name]}") from error


@contextmanager
def _open_tensorboard(run: TrackedRun) -> Iterator[tuple[Tracker, str]]:
    from torch.utils.tensorboard import SummaryWriter

    # What was written behind the checkpoint is hidden, and written again.
    writer: Any = SummaryWriter(str(run.directory.tensorboard), purge_step=run.updates if run.before else None)
    if not run.updates:
        writer.add_text("recipe", "    " + to_yaml(dict(run.config)).replace("\n", "\n    "), 0)

    def log(step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            writer.add_scalar(name, value, step)

    def say(step: int, title: str, text: str) -> None:
        writer.add_text(title, text, step)

    def tabulate(step: int, name: str, rows: Rows) -> None:
        writer.add_text(name, "\n\n---\n\n".join(map(_as_code, rows)), step)

    try:
        yield Tracker(log, say, tabulate), run.directory.tensorboard.name
    finally:
        writer.close()


@contextmanager
def _open_wandb(run: TrackedRun) -> Iterator[tuple[Tracker, str]]:
    import wandb

    settings = run.recipe.logging
    own_id = run.before or secrets.token_hex(4)
    with refused("wandb", wandb.errors.Error):
        opened = wandb.init(
            project=run.project("WANDB_PROJECT"),
            entity=settings.entity,
            group=settings.group,
            tags=settings.tags or None,
            name=settings.run_name or os.environ.get("WANDB_NAME") or run.name,
            id=own_id,
            resume="allow",
            dir=str(run.directory.path),
            config=dict(run.config),
            allow_val_change=True,
        )
    # Not wandb's own step, which never goes back: the lines after a kill would be dropped.
    opened.define_metric(AXIS)
    opened.define_metric("*", step_metric=AXIS, step_sync=True)
    try:
        yield (
            Tracker(
                lambda step, figures: opened.log({**figures, AXIS: step}),
                lambda step, title, text: opened.alert(title, f"step {step}: {text}"),
                lambda step, name, rows: opened.log({name: wandb.Table(*_divide(rows)), AXIS: step}),
            ),
            own_id,
        )
    finally:
        opened.finish(exit_code=int(sys.exc_info()[0] is not None))


@contextmanager
def _open_trackio(run: TrackedRun) -> Iterator[tuple[Tracker, str]]:
    import trackio

    opened = trackio.init(
        project=run.project("TRACKIO_PROJECT"),
        name=run.before or run.name,
        group=run.recipe.logging.group,
        resume="allow" if run.before else "never",
        config=dict(run.config),
        embed=False,
    )
    try:
        yield (
            Tracker(
                lambda step, figures: trackio.log(dict(figures), step=step),
                lambda step, title, text: trackio.alert(title, f"step {step}: {text}"),
                # Trackio shows texts as Markdown with HTML in it.
                lambda step, name, rows: trackio.log({name: trackio.Table(*_divide(rows, html.escape))}, step=step),
            ),
            str(opened.name),  # not the one that was asked for, where another run has it
        )
    finally:
        trackio.finish()


@contextmanager
def _open_mlflow(run: TrackedRun) -> Iterator[tuple[Tracker, str]]:
    import mlflow

    settings = run.recipe.logging
    tags = {"group": settings.group, **dict.fromkeys(settings.tags, "")}
    with refused("mlflow", mlflow.exceptions.MlflowException):
        mlflow.set_experiment(run.project("MLFLOW_EXPERIMENT_NAME"))
        opened = mlflow.start_run(run_id=run.before, run_name=None if run.before else run.name)
        mlflow.set_tags({name: value for name, value in tags.items() if value is not None})
        mlflow.log_dict(dict(run.config), RECIPE_FILE)
        if not run.before:  # a parameter never changes
            mlflow.log_params(dict(_name_leaves(run.config)))

    try:
        yield (
            Tracker(
                lambda step, figures: mlflow.log_metrics(dict(figures), step=step),
                lambda step, title, text: mlflow.set_tag(title.replace(":", ""), f"step {step}: {text}"),
                lambda step, name, rows: mlflow.log_table(_in_columns(rows), f"{name}-{step:06d}.json"),
            ),
            opened.info.run_id,
        )
    finally:
        mlflow.end_run("FAILED" if sys.exc_info()[0] else "FINISHED")


def _as_code(row: Mapping[str, str]) -> str:
    """A row of a table as Markdown in which no text means anything: every line of it is indented code."""
    return "\n\n".join(
        f"{name}:\n\n" + "\n".join(f"    {line}" for line in text.splitlines()) for name, text in row.items()
    )


def _divide(rows: Rows, change: Callable[[str], str] = str) -> tuple[list[str], list[list[str]]]:
    """A table's columns, and the texts of its rows."""
    return list(rows[0]), [[change(text) for text in row.values()] for row in rows]


def _in_columns(rows: Rows) -> dict[str, list[str]]:
    return {name: [row[name] for row in rows] for name in rows[0]}


def _name_leaves(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The settings of a recipe, a line each, as an override writes them."""
    from scorl.recipe.renamed import leaves

    for path, value in leaves(dict(config)):
        yield path.replace("/", "_"), str(value)[:500]


TRACKERS: dict[str, Callable[[TrackedRun], AbstractContextManager[tuple[Tracker, str]]]] = {
    "tensorboard": _open_tensorboard,
    "wandb": _open_wandb,
    "trackio": _open_trackio,
    "mlflow": _open_mlflow,
}
"""The names that recipes use; each opens a tracker, and says what it calls the run."""

MODULES = {"tensorboard": "torch.utils.tensorboard"}
"""What is imported of packages whose own name is not what is used."""
INSTALL = {"": "pip install 'scorl[loggers]'", "mlflow": "pip install mlflow"}
HINTS = {
    "wandb": "(WANDB_MODE=offline keeps the run on this disk, `wandb sync` sends it later)",
    "mlflow": "(MLFLOW_TRACKING_URI says where runs are kept, say http://localhost:5000)",
}
