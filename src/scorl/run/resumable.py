"""Whether a run can resume as what it is, asked before anything of it is read, changed or cut off.

Where its checkpoints are gone, it would begin anew and cut off all that it has; by another recipe it would go on as
another run.
"""

from __future__ import annotations

import os

from scorl.errors import UserError
from scorl.model.manifest import read_manifest
from scorl.recipe import Recipe, differences, is_longer, resolve_text
from scorl.recipe.source import RECIPE_FILE
from scorl.run.attempts import list_ranges
from scorl.run.directory import EVALUATIONS, RunDirectory
from scorl.settings import EvaluationSettings

__all__ = ["check_resumable", "find_lost_attempts", "find_lost_evaluations", "refuse_recipe"]


def check_resumable(directory: RunDirectory, started: Recipe) -> None:
    """Refuse to go on with a run whose checkpoints are gone, or whose recipe was changed by hand.

    Args:
        directory: of the run.
        started: its recipe as it stands there.

    Raises:
        UserError: there is no checkpoint, although what is recorded comes behind one, or their folder is a link that
            leads nowhere; or the newest one was saved by a recipe that the present one does not continue.
    """
    folder = directory.checkpoints
    if folder.is_symlink() and not folder.exists():
        raise UserError(f"{folder} leads to {os.readlink(folder)}, which is not there: mount it, or put it back")
    if directory.saved_steps():
        _check_recipe(directory, started)
    elif made := _made_behind_a_checkpoint(directory, started):
        raise UserError(
            f"{folder}: holds no checkpoint, although the run has {made}, before which it saved one. Put "
            "the folder back (is its disk mounted?), or start another run with --out; nothing was changed"
        )


def refuse_recipe(what: str, changed: list[str]) -> UserError:
    """What to raise where a recipe, `what`, is not the one that a run was started with."""
    rule = (
        "a run resumes by the recipe it was started with, with more steps of its last stage or more stages behind "
        "that if need be. What differs:"
    )
    return UserError("\n  ".join([f"{what}: {rule}", *changed]))


def _check_recipe(directory: RunDirectory, present: Recipe) -> None:
    """Hold recipe.yaml against the one of the newest checkpoint that noted it; versions before noted none."""
    for step in reversed(directory.saved_steps()):
        manifest = read_manifest(directory.checkpoint(step))
        if manifest and (text := manifest.get("recipe")):
            started = resolve_text(text, f"the recipe in {directory.checkpoint(step)}")
            changed = differences(started, present)
            if changed and not is_longer(present, started):
                file = directory.path / RECIPE_FILE
                raise refuse_recipe(f"{file} has changed since step-{step} was saved, so put it back", changed)
            return


def find_lost_attempts(directory: RunDirectory, updates: int) -> str | None:
    """Whether attempts of some of so many steps are lost, in a sentence; `logging.attempts_total_limit`, which an
    earlier start may have had, deletes none behind one that is there.
    """
    there = set(directory.attempted_steps())
    if missing := [step for step in range(min(there, default=0), updates) if step not in there]:
        folder = directory.attempt_files().folder
        return f"{folder}: lacks the attempts of {len(missing)} steps, the first of them {missing[0]}"
    return None


def find_lost_evaluations(directory: RunDirectory, settings: EvaluationSettings, updates: int) -> str | None:
    """Whether evaluations that were due before so many updates are lost, in a sentence."""
    due = range(0, updates, settings.eval_steps) if settings.eval_steps else range(min(updates, 1))
    there = {entry["step"] for entry in directory.evaluations().get(settings.split, {}).get("history", [])}
    if missing := [step for step in due if step not in there]:
        file = directory.path / EVALUATIONS
        return f"{file}: lacks the evaluations after {list_ranges(missing)} steps; later ones are added"
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
    # An evaluation comes behind the beginning of a save; the report of a run that has ended behind its end, but
    # `scorl report` writes one too.
    ended = directory.has_report and not any(directory.checkpoints.glob(".step-*.draft"))
    if 0 < sure <= evaluated and (first < sure or not later or ended):
        return f"an evaluation after {evaluated} steps"
    return "a best checkpoint" if os.path.lexists(directory.best) else ""
