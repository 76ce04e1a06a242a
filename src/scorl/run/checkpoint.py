"""Checkpoints: an ordinary Hugging Face folder, and beside its files what the trainer needs to resume bit-for-bit.

    checkpoints/step-40/            config.json, model.safetensors, tokenizer files: `from_pretrained` loads it
    checkpoints/step-40/trainer/    the learner's state (scorl.learner.state), manifest.json (scorl.model.manifest)
    checkpoints/step-60.damaged/    a newer one that was found damaged when the run resumed
    checkpoints/best -> step-40     the kept one with the highest training reward

A checkpoint is written under another name, and renamed when it and all that it follows from are on the disk: neither a
kill nor a power cut leaves one that is half-written, and where a disk loses or changes something, a checksum tells.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from scorl.errors import UserError
from scorl.learner import Learner
from scorl.learner.state import read_state, write_state
from scorl.model.manifest import MANIFEST, TRAINER, find_damage, read_manifest, write_manifest
from scorl.run.directory import RunDirectory
from scorl.run.files import replacing, sync, sync_tree

__all__ = ["load", "prune", "save"]


def save(directory: RunDirectory, learner: Learner, reward: float | None) -> None:
    """Write `checkpoints/step-N`, N being the updates made; idempotent. All ranks take part.

    Args:
        directory: of the run.
        learner: policy and trainer state.
        reward: mean training reward since the checkpoint before; the highest marks the best.

    Raises:
        GuardError: the state is not finite.
    """
    folder = directory.checkpoint(learner.updates)
    draft = folder.with_name(f".{folder.name}.draft")
    if learner.ranks.main:
        shutil.rmtree(draft, ignore_errors=True)
        (draft / TRAINER).mkdir(parents=True)
    learner.ranks.barrier("the folder of a checkpoint")
    learner.strategy.save(draft)
    write_state(learner, draft / TRAINER)
    if learner.ranks.main:
        write_manifest(draft, reward)
        sync_tree(draft)
        directory.sync_steps()
        if folder.exists():  # a folder is not replaced in one go, as a file is
            _remove(folder)
        os.replace(draft, folder)
        sync(folder.parent)


def load(directory: RunDirectory, learner: Learner, notify: Callable[[str], None]) -> None:
    """Put the state of the newest whole checkpoint into the learner, where there is one. All ranks take part.

    Newer checkpoints that are damaged are set aside, and `notify` is told.

    Raises:
        UserError: no checkpoint is whole, or another version of scorl or another model wrote it.
    """
    steps = directory.saved_steps()
    step, damaged = learner.ranks.broadcast(lambda: _newest_whole(directory, steps), "the newest whole checkpoint")
    if step is None:
        return
    if learner.ranks.main:
        for folder, damage in damaged.items():
            aside = _set_aside(folder)
            notify(f"{folder} is damaged, and now called {aside.name}: {damage}. The run resumes from step-{step}")
    read_state(learner, directory.checkpoint(step) / TRAINER)


def prune(directory: RunDirectory, keep: int) -> None:
    """Mark the best checkpoint, and delete all but it and the last `keep`."""
    steps = directory.saved_steps()
    if not directory.ranks.main:
        return
    rewards = {step: reward for step in steps if (reward := _reward(directory.checkpoint(step))) is not None}
    best = max(rewards, key=lambda step: rewards[step]) if rewards else None
    if best is not None:
        with replacing(directory.checkpoints / "best") as link:
            link.symlink_to(directory.checkpoint(best).name)
    for step in steps[:-keep]:
        if step != best:
            _remove(directory.checkpoint(step))


def _newest_whole(directory: RunDirectory, steps: Sequence[int]) -> tuple[int | None, dict[Path, str]]:
    """The step of the newest checkpoint that is whole, None where there is none at all; what ails the newer ones."""
    damaged: dict[Path, str] = {}
    for step in reversed(steps):
        folder = directory.checkpoint(step)
        _check_version(folder)
        damage = find_damage(folder)
        if damage is None:
            return step, damaged
        damaged[folder] = damage
    if damaged:
        raise UserError(
            "\n  ".join(
                [
                    f"{directory.path}: none of its checkpoints is whole, so the run cannot resume. Start another with "
                    "--out, if need be from the weights of one (model.path=...):",
                    *(f"{folder.name}: {damage}" for folder, damage in damaged.items()),
                ]
            )
        )
    return None, {}


def _check_version(folder: Path) -> None:
    """Versions before the manifest had these files, and another state in them."""
    old = (folder / TRAINER / "state.pt", folder / TRAINER / "state")
    if not (folder / MANIFEST).exists() and any(path.exists() for path in old):
        raise UserError(
            f"{folder}: its trainer state is another version's of scorl, so the run cannot be resumed; "
            f"start a new one from its weights: scorl train RECIPE model.path={folder} --out NEW"
        )


def _set_aside(folder: Path) -> Path:
    """Rename a damaged checkpoint, so that it is no checkpoint any more and what can be saved of it is not lost."""
    aside = folder.with_name(f"{folder.name}.damaged")
    shutil.rmtree(aside, ignore_errors=True)
    os.replace(folder, aside)
    return aside


def _reward(checkpoint: Path) -> float | None:
    manifest = read_manifest(checkpoint)
    reward: float | None = manifest.get("training_reward") if manifest else None
    return reward


def _remove(checkpoint: Path) -> None:
    """Delete a checkpoint; a kill on the way leaves a draft, never half a checkpoint."""
    gone = checkpoint.with_name(f".{checkpoint.name}.gone.draft")
    shutil.rmtree(gone, ignore_errors=True)
    os.replace(checkpoint, gone)
    shutil.rmtree(gone)
