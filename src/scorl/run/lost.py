"""Checkpoints that were there and are not: a run that began anew in their place would cut off all that it has."""

from __future__ import annotations

import os

from scorl.errors import UserError
from scorl.recipe import Recipe
from scorl.run.directory import RunDirectory

__all__ = ["check_checkpoints", "find_lost_attempts"]


def check_checkpoints(directory: RunDirectory, started: Recipe) -> None:
    """Refuse to go on with a run whose checkpoints are gone, before anything of it is cut off.

    Args:
        directory: of the run.
        started: the recipe that its steps were made by.

    Raises:
        UserError: there is no checkpoint, although what is recorded comes behind one, or their folder is a link that
            leads nowhere.
    """
    folder = directory.checkpoints
    if folder.is_symlink() and not folder.exists():
        raise UserError(f"{folder} leads to {os.readlink(folder)}, which is not there: mount it, or put it back")
    if directory.saved_steps() or not (made := _made_behind_a_checkpoint(directory, started)):
        return
    raise UserError(
        f"{folder}: holds no checkpoint, although the run has {made}, before which it saved one. Put "
        "the folder back (is its disk mounted?), or start another run with --out; nothing was changed"
    )


def find_lost_attempts(directory: RunDirectory, updates: int) -> str | None:
    """Whether attempts of some of so many steps are lost, in a sentence; `logging.attempts_total_limit`, which an
    earlier start may have had, deletes none behind one that is there.
    """
    there = set(directory.attempted_steps())
    if missing := [step for step in range(min(there, default=0), updates) if step not in there]:
        folder = directory.attempt_files().folder
        return f"{folder}: lacks the attempts of {len(missing)} steps, the first of them {missing[0]}"
    return None


def _made_behind_a_checkpoint(directory: RunDirectory, started: Recipe) -> str:
    """What is recorded that a checkpoint was published before, in words; empty where the run may have saved none yet.

    A run that was asked to stop has saved earlier than its recipe says, which is not seen here.
    """
    settings, total = started.checkpoint, started.steps
    first, later = min(settings.save_steps, total), settings.async_save
    sure = min(2 * settings.save_steps, total) if later else first  # the next one waits for one that is being written
    made = max((step["step"] + 1 for step in directory.steps()), default=0)
    if made > sure:
        return f"{made} steps"
    evaluated = max((entry["step"] for e in directory.evaluations().values() for entry in e["history"]), default=0)
    # An evaluation comes behind the beginning of a save; the report of a run that has ended behind its end.
    if 0 < sure <= evaluated and (first < sure or not later or directory.has_report):
        return f"an evaluation after {evaluated} steps"
    return "a best checkpoint" if os.path.lexists(directory.best) else ""
