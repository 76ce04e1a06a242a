"""Resuming a run: from the newest whole checkpoint, with a word about everything that is not as it was."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from scorl.errors import UserError
from scorl.learner import Learner
from scorl.recipe import is_longer, resolve
from scorl.recipe.source import RECIPE_FILE, parse
from scorl.run import checkpoint
from scorl.run.build import BuiltRecipe, versions
from scorl.run.directory import RunDirectory
from scorl.run.resumable import check_resumable, find_lost_attempts, find_lost_evaluations
from scorl.training.batches import legs

__all__ = ["resume"]


def resume(built: BuiltRecipe, directory: RunDirectory, learner: Learner, notify: Callable[[str], None]) -> None:
    """Bring learner and directory to the newest whole checkpoint, or to the start where there is none.

    Args:
        built: what the run is made by.
        directory: of the run; what was written behind the checkpoint is cut off, and will be written again.
        learner: new; all ranks bring theirs.
        notify: is told, on the first rank, what an undisturbed run would not have seen.

    Raises:
        UserError: no checkpoint is whole, or it is another version's, another model's or of a longer or
            other recipe, or all of them are gone.
    """
    here = RunDirectory(directory.path)  # of rank 0 alone
    directory.ranks.broadcast(lambda: check_resumable(here, resolve(here.path)), "whether the run can resume")
    _note_changes(built, directory, notify)
    checkpoint.load(directory, learner, notify)
    if learner.updates > built.recipe.steps:
        made, wanted = learner.updates, built.recipe.steps
        raise UserError(f"{directory.path}: has made {made} steps, more than the recipe's {wanted}")
    directory.cut(learner.updates)
    directory.ranks.broadcast(
        lambda: _forget_collections(built, directory, learner.updates), "what was collected behind it"
    )
    checkpoint.prune(directory, built.recipe.checkpoint)  # a kill may have come before it
    gap = directory.find_gap(learner.updates)
    if directory.ranks.main:
        if learner.updates and not _versions_at_start(directory):
            file = directory.path / RECIPE_FILE
            notify(f"{file}: its `versions` are lost, so whether the run goes on as it began is not known")
        for difference in _version_differences(built, directory):
            notify(f"{difference}: from here on the run is not bit-for-bit what it would have been")
        evaluations = find_lost_evaluations(here, built.recipe.evaluation, learner.updates)
        lost = None if built.recipe.logging.attempts_total_limit else find_lost_attempts(directory, learner.updates)
        for sentence in filter(None, (gap, lost, evaluations)):
            notify(sentence)


def _forget_collections(built: BuiltRecipe, directory: RunDirectory, updates: int) -> None:
    """Delete what stages behind the checkpoint collected: elsewhere their policy may not come out the same to the bit.

    What a comparison's runs share is the first stage's, which no checkpoint is before.
    """
    for leg in legs(built.recipe.stages):
        if leg.first_step > updates and directory.collected(leg.number).is_dir():
            shutil.rmtree(directory.collected(leg.number))


def _note_changes(built: BuiltRecipe, directory: RunDirectory, notify: Callable[[str], None]) -> None:
    """Write down a recipe that was made longer, or that names other loggers, with the versions it was started with."""
    if not directory.ranks.main:
        return
    started, recipe = resolve(directory.path), built.recipe
    longer = is_longer(recipe, started)
    if longer and recipe.learner.lr_scheduler_type != "constant":
        notify(
            f"learner.lr_scheduler_type: {recipe.learner.lr_scheduler_type}: the learning rate falls over "
            f"{recipe.steps} steps now, and fell over {started.steps} before"
        )
    if longer or (recipe.loggers, recipe.logging) != (started.loggers, started.logging):
        directory.rewrite_recipe(replace(recipe, launcher=started.launcher).dump(_versions_at_start(directory)))


def _versions_at_start(directory: RunDirectory) -> Mapping[str, str]:
    """Those that recipe.yaml notes; none where it notes nothing that could be some."""
    noted = (parse(directory.recipe_text(), str(directory.path)) or {}).get("versions")
    return noted if isinstance(noted, dict) else {}


def _version_differences(built: BuiltRecipe, directory: RunDirectory) -> Iterator[str]:
    """The versions that are not those the run was started with; what was decided for its first device stays."""
    started = _versions_at_start(directory)
    for name, version in versions(built).items():
        if name in started and started[name] != version:
            kept = f", still in {built.recipe.model.dtype} and with the engine {built.recipe.engine.name}"
            yield (
                f"the run was started with {name} {started[name]}, and resumes with {version}"
                f"{kept if name == 'device' else ''}"
            )
