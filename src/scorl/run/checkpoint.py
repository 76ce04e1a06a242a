"""Checkpoints: an ordinary Hugging Face folder, and beside its files what the trainer needs to resume bit-for-bit.

    checkpoints/step-40/            config.json, model.safetensors, tokenizer files: `from_pretrained` loads it
    checkpoints/step-40/README.md   its model card, where whoever runs the run describes it
    checkpoints/step-40/adapter/    of a run that trains adapters, unless they lie in shards: they by themselves (peft)
    checkpoints/step-40/trainer/    the learner's state (scorl.learner.state), manifest.json (scorl.model.manifest)
    checkpoints/step-20/            an older one keeps the Hugging Face folder and the manifest, and no state
    checkpoints/step-60.damaged/    a newer one that was found damaged when the run resumed; .damaged.2, ...: once more
    checkpoints/best -> step-40     the kept one with the highest training reward

A checkpoint is written under another name, and renamed when it and all that it follows from are on the disk: neither a
kill nor a power cut leaves one that is half-written, and where a disk loses or changes something, a checksum tells.
"""

from __future__ import annotations

import os
import shutil
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import torch

from scorl.distributed.ranks import Ranks
from scorl.learner import Learner
from scorl.learner.state import read_state, take_state
from scorl.model.loading import saved_steps
from scorl.model.manifest import CARD, MANIFEST, TRAINER, dump_manifest, read_manifest, write_manifest
from scorl.recipe.hidden import hide_in_text
from scorl.run.directory import RunDirectory
from scorl.run.files import replacing, sync, sync_tree, write_whole
from scorl.run.newest import find_damage_to_best, find_newest, has_state, set_aside
from scorl.settings import CheckpointSettings

__all__ = ["ADAPTER", "Describe", "Saver", "load", "prune"]

Describe = Callable[[Path, int], str]
ADAPTER = "adapter"
"""The folder of a checkpoint for adapters by themselves."""


class Saver:
    """Writes the checkpoints of a run, one after the other; all ranks make the same calls.

    Args:
        directory: of the run.
        learner: policy and trainer state.
        settings: of the recipe.
        describe: the text of a checkpoint's model card, from its folder and the updates before it.
    """

    def __init__(
        self,
        directory: RunDirectory,
        learner: Learner,
        settings: CheckpointSettings,
        describe: Describe | None = None,
    ) -> None:
        self._directory, self._learner, self._settings, self._describe = directory, learner, settings, describe
        # As it stands now: whoever edits the file while the run goes on changes nothing of it.
        self._recipe = hide_in_text(directory.recipe_text()) if learner.ranks.main else ""
        self._ranks: Ranks | None = None
        """For the thread that writes."""
        self._writing: Future[None] | None = None

    def save(self, reward: float | None) -> None:
        """Write `checkpoints/step-N`, N being the updates made, and delete what need not be kept; idempotent.

        Where it is to be written while the run goes on, `finish` waits for it.

        Args:
            reward: mean training reward since the checkpoint before; the highest marks the best.

        Raises:
            GuardError: the state is not finite.
        """
        self.finish()
        learner, later = self._learner, self._settings.async_save
        updates = learner.updates
        folder = self._directory.checkpoint(updates)
        draft = folder.with_name(f".{folder.name}.draft")
        if learner.ranks.main:
            shutil.rmtree(draft, ignore_errors=True)
            (draft / TRAINER).mkdir(parents=True)
        learner.ranks.barrier("the folder of a checkpoint")
        dtype = getattr(torch, self._settings.save_dtype) if self._settings.save_dtype else None
        weights, state = learner.strategy.export(dtype, later), take_state(learner, later)
        if learner.ranks.main and learner.policy.lora and not learner.policy.is_sharded:
            learner.policy.save_adapters(draft / ADAPTER)
            (draft / ADAPTER / CARD).unlink(missing_ok=True)  # peft's own, which names folders of this machine

        def write(ranks: Ranks) -> None:
            if ranks.main:
                learner.policy.write(draft, weights, dtype)
                self._write_card(draft, updates)
            state.write(draft / TRAINER, ranks)
            ranks.barrier("all shards of a checkpoint")
            if ranks.main:
                write_manifest(draft, reward, self._recipe)
                _publish(draft, folder, self._directory)

        if later:
            self._ranks = self._ranks or learner.ranks.apart()
            self._writing = _start(write, self._ranks)
        else:
            write(learner.ranks)
            prune(self._directory, self._settings)

    def describe(self) -> None:
        """Write the newest checkpoint's card anew, behind an evaluation; `finish` does for one not there yet."""
        if self._learner.ranks.main and self._writing is None:
            for newest in saved_steps(self._directory.path)[-1:]:
                self._write_card(self._directory.checkpoint(newest), newest)

    def _write_card(self, folder: Path, updates: int) -> None:
        if self._describe:
            try:
                write_whole(folder / CARD, self._describe(folder, updates))
            except Exception as error:  # a run of days does not end for the lack of a card
                warnings.warn(f"{folder / CARD} is not written: {type(error).__name__}: {error}", stacklevel=2)

    def finish(self) -> None:
        """Wait until the checkpoint that is being written has its name; what went wrong with it is raised here."""
        if self._writing is not None:
            self.wait()
            self._learner.ranks.barrier("the checkpoint that was written meanwhile")
            prune(self._directory, self._settings)
            self.describe()

    def wait(self) -> None:
        """As `finish`, but of this rank alone: others may be about to end."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()


def _start(write: Callable[[Ranks], None], ranks: Ranks) -> Future[None]:
    """Have a thread write, which does not hold up the end of a process that must end at once."""
    writing: Future[None] = Future()

    def run() -> None:
        try:
            write(ranks)
            writing.set_result(None)
        except BaseException as error:
            writing.set_exception(error)

    threading.Thread(target=run, name="checkpoint", daemon=True).start()
    return writing


def _publish(draft: Path, folder: Path, directory: RunDirectory) -> None:
    """Give a checkpoint its name, when it and all that it follows from are on the disk."""
    sync_tree(draft)
    directory.sync_steps()
    if folder.exists():  # a folder is not replaced in one go, as a file is
        _remove(folder)
    os.replace(draft, folder)
    sync(folder.parent)


def load(directory: RunDirectory, learner: Learner, notify: Callable[[str], None]) -> None:
    """Put the state of the newest whole checkpoint into the learner, where there is one. All ranks take part.

    Newer checkpoints that are damaged are set aside, and `notify` is told, also of damage to the best one.

    Raises:
        UserError: no checkpoint is whole, or another version of scorl or another model wrote it.
    """
    steps = directory.saved_steps()
    step, damaged = learner.ranks.broadcast(lambda: find_newest(directory, steps), "the newest whole checkpoint")
    if step is None:
        return
    if learner.ranks.main:
        for folder, damage in damaged.items():
            aside = set_aside(folder)
            notify(f"{folder} is damaged, and now called {aside.name}: {damage}. The run resumes from step-{step}")
        if sentence := find_damage_to_best(directory, step):
            notify(sentence)
    read_state(learner, directory.checkpoint(step) / TRAINER)


def prune(directory: RunDirectory, settings: CheckpointSettings) -> None:
    """Mark the best checkpoint, and delete what need not be kept: older ones, and the state of others."""
    steps = directory.saved_steps()
    if not directory.ranks.main:
        return
    rewards = {step: reward for step in steps if (reward := _reward(directory.checkpoint(step))) is not None}
    best = max(rewards, key=lambda step: rewards[step]) if rewards else None
    if best is not None:
        _link(directory.best, directory.checkpoint(best))
    for step in steps[: -settings.save_total_limit]:
        if step != best:
            _remove(directory.checkpoint(step))
    for step in steps[: -settings.state_total_limit]:
        if directory.checkpoint(step).exists():
            _remove_state(directory.checkpoint(step))


def _link(path: Path, folder: Path) -> None:
    """Have a link lead to a folder beside it; a copy of one, as `cp -rL` makes it, goes."""
    if path.is_dir() and not path.is_symlink():
        _remove(path)
    with replacing(path) as link:
        link.symlink_to(folder.name)


def _remove_state(folder: Path) -> None:
    """Leave of a checkpoint what is the model's; what a kill leaves of the state, the next call deletes."""
    manifest = read_manifest(folder)
    if manifest is None:
        return
    if has_state(folder):
        files = {name: file for name, file in manifest["files"].items() if not name.startswith(f"{TRAINER}/")}
        write_whole(folder / MANIFEST, dump_manifest(manifest | {"files": files}))
    for path in (folder / TRAINER).iterdir():
        if path != folder / MANIFEST:
            path.unlink()


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
