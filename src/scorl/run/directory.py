"""The run directory, a contract that other tools may read (docs/run-directory.md); its files are named here alone.

recipe.yaml        the resolved recipe, with versions and seeds
steps.jsonl        one record a step
attempts/          step-000012.jsonl (.gz): one record an attempt
checkpoints/       step-40: see scorl.run.checkpoint; best -> step-40
collected/         stage-0/step-000003.jsonl: see scorl.run.collected
held-out/          step-000040.jsonl (.gz): one record an attempt of the evaluation after 40 updates
evaluation.json    {split: the latest evaluation, with "step" and the "history" of all}
report.html        for people
ranks/             what ranks but the first say, and Ray Train's notes
loggers.json       {logger: what it calls this run}
tensorboard/       where that logger is named; wandb/ likewise
.lock              held by the process that is at work here
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scorl.distributed.ranks import ALONE, Ranks
from scorl.model.loading import CHECKPOINTS, checkpoint_folder, saved_steps
from scorl.model.manifest import TRAINER
from scorl.recipe.source import RECIPE_FILE
from scorl.run.files import (
    Record,
    check_is_folder,
    is_draft,
    read_sealed,
    remove_drafts,
    sync,
    to_lines,
    to_sealed,
    write_whole,
)
from scorl.run.history import cut_evaluations, find_gap, read_evaluations, read_logger_runs, read_steps
from scorl.run.lock import exclusive
from scorl.run.step_files import StepFiles
from scorl.settings import LoggingSettings
from scorl.text_files import as_path

__all__ = ["ATTEMPTS", "EVALUATIONS", "HELD_OUT", "STEPS", "RunDirectory"]

STEPS, EVALUATIONS, REPORT, LOCK = "steps.jsonl", "evaluation.json", "report.html", ".lock"
ATTEMPTS, HELD_OUT, COLLECTED, RANKS = "attempts", "held-out", "collected", "ranks"
LOGGERS, TENSORBOARD, WANDB = "loggers.json", "tensorboard", "wandb"

BEGUN = {STEPS, CHECKPOINTS, EVALUATIONS}
"""A folder with none of these is no run yet."""
WRITTEN = (
    ATTEMPTS,
    HELD_OUT,
    f"{COLLECTED}/*",
    CHECKPOINTS,
    f"{CHECKPOINTS}/step-*",
    f"{CHECKPOINTS}/step-*/{TRAINER}",
)
"""The folders that a run writes into, beside its own."""
ALL = LoggingSettings()  # attempts of every step, as they are
LEFT_BY_A_FAILED_START = {RECIPE_FILE, ATTEMPTS, HELD_OUT, COLLECTED, RANKS, LOGGERS, TENSORBOARD, WANDB, LOCK}


@dataclass(frozen=True)
class RunDirectory:
    """The files of a run.

    Of several ranks the first alone touches them, but for the shards of a checkpoint. The others call the same methods
    in the same order: what is read is broadcast, and what is written is left to the first.
    """

    path: Path
    ranks: Ranks = ALONE

    @classmethod
    def of_model(cls, model: str) -> RunDirectory | None:
        """The run that a model's name stands for: the directory itself, or the one around a checkpoint."""
        path = as_path(model)
        run = cls(path.parent.parent if path.parent.name == CHECKPOINTS else path)
        return run if run.has_recipe else None

    # Places

    @property
    def rank_logs(self) -> Path:
        """The folder of what ranks but the first say."""
        return self.path / RANKS

    @property
    def tensorboard(self) -> Path:
        """The folder of that logger."""
        return self.path / TENSORBOARD

    @property
    def checkpoints(self) -> Path:
        """The folder of all checkpoints."""
        return self.path / CHECKPOINTS

    def checkpoint(self, step: int) -> Path:
        """The checkpoint after so many updates."""
        return checkpoint_folder(self.path, step)

    @property
    def best(self) -> Path:
        """The link to the checkpoint with the highest training reward."""
        return self.checkpoints / "best"

    def collected(self, stage: int) -> Path:
        """The folder of what a stage collected at its start."""
        return self.path / COLLECTED / f"stage-{stage}"

    def attempt_files(self, held_out: bool = False) -> StepFiles:
        """The files of the steps' attempts, or of those of the evaluations after so many updates."""
        return StepFiles(self.path / (HELD_OUT if held_out else ATTEMPTS))

    # What is there

    @property
    def has_recipe(self) -> bool:
        """Whether a run was started here, or was about to be."""
        return (self.path / RECIPE_FILE).is_file()

    @property
    def begun(self) -> bool:
        """Whether there is something of a run that another one must not be written over."""
        return any((self.path / name).exists() for name in BEGUN)

    @property
    def free(self) -> bool:
        """Whether a run may be started here: nothing is there but what a failed start left."""
        return not self.path.is_dir() or all(
            p.name in LEFT_BY_A_FAILED_START or is_draft(p) for p in self.path.iterdir()
        )

    @property
    def abandoned(self) -> bool:
        """Whether a run was started here that ended before it wrote anything that another one depends on."""
        return not self.begun and self.free and self.path.is_dir() and any(self.path.iterdir())

    @property
    def has_report(self) -> bool:
        """Whether a report was written, as is at the end."""
        return (self.path / REPORT).exists()

    def recipe_text(self) -> str:
        """The recipe as it stands; empty where there is none."""
        return (self.path / RECIPE_FILE).read_text(encoding="utf-8") if self.has_recipe else ""

    def steps(self) -> list[Record]:
        """The records of the steps so far, in order."""
        return self.ranks.broadcast(lambda: read_steps(self.path / STEPS), "the steps so far")

    def evaluations(self) -> dict[str, Any]:
        """The latest evaluation of each split, with the history of all.

        Raises:
            UserError: the file is no JSON.
        """
        return self.ranks.broadcast(self._evaluations, "the evaluations so far")

    def evaluated(self, split: str, step: int) -> bool:
        """Whether the policy was evaluated on a split after so many updates."""
        history = self.evaluations().get(split, {}).get("history", [])
        return any(entry["step"] == step for entry in history)

    def logger_runs(self) -> dict[str, str]:
        """What each logger calls this run, of those that were opened for it."""
        return read_logger_runs(self.path / LOGGERS)

    def saved_steps(self) -> list[int]:
        """The updates after which there are checkpoints, in order."""
        return self.ranks.broadcast(self._saved_steps, "the checkpoints so far")

    def attempted_steps(self, held_out: bool = False) -> list[int]:
        """The steps whose attempts are there, or the updates after which there are those of an evaluation, in order."""
        return self.attempt_files(held_out).steps()

    def attempts(self, steps: Iterable[int] | None = None, held_out: bool = False) -> Iterator[Record]:
        """The records of the attempts of some steps, or of all; or those of evaluations."""
        for step in self.attempted_steps(held_out) if steps is None else steps:
            yield from self.attempt_files(held_out).read(step)

    def collection(self, stage: int, index: int) -> list[Record] | None:
        """The trajectories that a stage collected for its step `index`, or DamagedError; None: it has not yet."""
        path = self._collection(stage, index)
        return self.ranks.broadcast(lambda: read_sealed(path), "what was collected before")

    # Writing

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Make the directory where it is not there, and hold it; the system lets go of it however the process ends.

        Raises:
            UserError: another process is at work there.
        """
        with ExitStack() as stack:
            self.ranks.broadcast(
                lambda: stack.enter_context(exclusive(self.path / LOCK)), "the lock of the run directory"
            )
            yield

    def start(self, recipe: str) -> None:
        """Write the recipe, until something of the run depends on it."""
        # Every run evaluates before anything else, so a corrected recipe may replace that of a start that failed.
        if not (self.begun and self.has_recipe):
            self.rewrite_recipe(recipe)

    def rewrite_recipe(self, recipe: str) -> None:
        """Write the recipe, whatever depends on the one before."""
        if self.ranks.main:
            write_whole(self.path / RECIPE_FILE, recipe)

    def record_step(self, step: Record, attempts: Sequence[Record], logging: LoggingSettings = ALL) -> None:
        """Write a step's attempts, and then its own record; delete attempts that need not be kept."""
        if self.ranks.main:
            # The step comes last: whoever reads its line finds its attempts.
            files = self.attempt_files()
            files.write(step["step"], attempts, logging.compress_attempts)
            with (self.path / STEPS).open("a", encoding="utf-8", errors="backslashreplace") as handle:
                handle.write(to_lines([step]))
            if logging.attempts_total_limit:
                files.delete(files.steps()[: -logging.attempts_total_limit])

    def sync_steps(self) -> None:
        """Have the disk keep steps and evaluations behind the newest checkpoint, before one that follows from them."""
        if self.ranks.main:
            since = max(saved_steps(self.path), default=0)
            written = [(step, held) for held in (False, True) for step in self.attempted_steps(held) if step >= since]
            files = [self.attempt_files(held).path(step) for step, held in written]
            for path in files:
                with suppress(FileNotFoundError):  # the run goes on meanwhile, and deletes the oldest attempts
                    sync(path)
            for path in (*{file.parent for file in files}, self.path / STEPS, self.path):
                sync(path)

    def record_evaluation(
        self, split: str, latest: Record, attempts: Sequence[Record] = (), compress: bool = False
    ) -> None:
        """Write an evaluation's attempts, and make it, which says its `step`, the latest one of a split."""
        if self.ranks.main:
            self.attempt_files(held_out=True).write(latest["step"], attempts, compress)
            evaluations = self._evaluations()
            history = evaluations.get(split, {}).get("history", [])
            self._write_evaluations({**evaluations, split: {**latest, "history": [*history, latest]}})

    def record_logger_run(self, logger: str, name: str) -> None:
        """Keep what a logger calls this run, so that a resumed one goes on there."""
        if self.ranks.main and self.logger_runs().get(logger) != name:
            write_whole(self.path / LOGGERS, json.dumps({**self.logger_runs(), logger: name}, indent=1) + "\n")

    def record_collection(self, stage: int, index: int, trajectories: Sequence[Record]) -> None:
        """Write what a stage collected for its step `index`."""
        if self.ranks.main:
            path = self._collection(stage, index)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, to_sealed(trajectories))

    def cut(self, updates: int) -> None:
        """Cut off what was written after so many updates, so that it is written again and never twice."""
        self.ranks.broadcast(lambda: self._cut(updates), "what lies behind the checkpoint")

    def find_gap(self, updates: int) -> str | None:
        """Whether the records of some of so many steps are lost, in a sentence."""
        return find_gap(self.path / STEPS, self.steps(), updates)

    def write_report(self, page: str) -> Path:
        """Write the report; its path."""
        write_whole(self.path / REPORT, page)
        return self.path / REPORT

    def _cut(self, updates: int) -> None:
        for folder in (self.path, *(folder for pattern in WRITTEN for folder in self.path.glob(pattern))):
            if not folder.is_symlink():  # else other runs write there too
                remove_drafts(folder)
        steps = read_steps(self.path / STEPS)
        if (self.path / STEPS).exists():  # of a torn line nothing is read, and it would stand before the next one
            write_whole(self.path / STEPS, to_lines([step for step in steps if step["step"] < updates]))
        for held_out in (False, True):  # an evaluation belongs to the updates before it
            files = self.attempt_files(held_out)
            files.delete([step for step in files.steps() if step >= updates + held_out])
        if evaluations := self._evaluations():
            self._write_evaluations(cut_evaluations(evaluations, updates))

    def _saved_steps(self) -> list[int]:
        check_is_folder(self.checkpoints)
        return saved_steps(self.path)

    def _evaluations(self) -> dict[str, Any]:
        return read_evaluations(self.path / EVALUATIONS)

    def _write_evaluations(self, evaluations: dict[str, Any]) -> None:
        write_whole(self.path / EVALUATIONS, json.dumps(evaluations, indent=1) + "\n")

    def _collection(self, stage: int, index: int) -> Path:
        return self.collected(stage) / f"step-{index:06d}.jsonl"
