"""The newest whole checkpoint of a run: which one it is, and what ails the others."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import chain, count
from pathlib import Path

from scorl.errors import UserError
from scorl.learner.state import read_updates
from scorl.model.manifest import MANIFEST, TRAINER, find_damage, read_manifest
from scorl.run.directory import RunDirectory

__all__ = ["find_damage_to_best", "find_newest", "has_state", "set_aside"]


def find_newest(directory: RunDirectory, steps: Sequence[int]) -> tuple[int | None, dict[Path, str]]:
    """The step of the newest checkpoint to resume from, None where there is none at all; what ails the newer ones.

    Raises:
        UserError: none of those that are there is whole and has its state, or another version of scorl wrote one.
    """
    damaged: dict[Path, str] = {}
    without_state: list[Path] = []
    for step in reversed(steps):
        folder = directory.checkpoint(step)
        _check_version(folder)
        if damage := find_damage(folder):
            damaged[folder] = damage
        elif not has_state(folder):
            without_state.append(folder)
        elif (made := read_updates(folder / TRAINER)) != step:
            damaged[folder] = f"its state is after {made} updates, so its name was step-{made}"
        else:
            return step, damaged
    if steps:
        raise UserError(
            "\n  ".join(
                [
                    f"{directory.path}: cannot resume from any of its checkpoints. Start another run with --out, if "
                    "need be from the weights of one (model.path=...):",
                    *(f"{folder.name}: {damage}" for folder, damage in damaged.items()),
                    *(
                        f"{folder.name}: is whole as a model, but the trainer's state was deleted from it "
                        "(checkpoint.state_total_limit)"
                        for folder in without_state
                    ),
                ]
            )
        )
    return None, {}


def find_damage_to_best(directory: RunDirectory, newest: int) -> str | None:
    """What is wrong with the best checkpoint where that is an older one, in a sentence; others are not read."""
    best = directory.best
    if not best.is_symlink() or not best.is_dir() or best.resolve() == directory.checkpoint(newest).resolve():
        return None
    damage = find_damage(best)
    return damage and f"{best} leads to {best.readlink()}, which is damaged: {damage}. The run goes on without it"


def has_state(folder: Path) -> bool:
    """Whether a checkpoint has what the trainer needs, and not the model alone."""
    manifest = read_manifest(folder)
    return manifest is not None and any(name.startswith(f"{TRAINER}/") for name in manifest["files"])


def set_aside(folder: Path) -> Path:
    """Rename a damaged checkpoint, so that it is no checkpoint any more and what can be saved of it is not lost."""
    name = f"{folder.name}.damaged"
    names = chain([name], (f"{name}.{number}" for number in count(2)))
    aside = next(path for path in map(folder.with_name, names) if not os.path.lexists(path))
    os.replace(folder, aside)
    return aside


def _check_version(folder: Path) -> None:
    """Versions before the manifest had these files, and another state in them."""
    old = (folder / TRAINER / "state.pt", folder / TRAINER / "state")
    if not (folder / MANIFEST).exists() and any(path.exists() for path in old):
        raise UserError(
            f"{folder}: its trainer state is another version's of scorl, so the run cannot be resumed; "
            f"start a new one from its weights: scorl train RECIPE model.path={folder} --out NEW"
        )
