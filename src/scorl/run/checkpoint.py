"""Checkpoints: an ordinary Hugging Face folder, and beside its files what the trainer needs to resume bit-for-bit.

    checkpoints/step-40/            config.json, model.safetensors, tokenizer files: `from_pretrained` loads it
    checkpoints/step-40/trainer/    state.pt or state/, training_reward.json
    checkpoints/best -> step-40     the kept one with the highest training reward

`state/` is a folder of torch's distributed checkpoints (DCP), into which ranks that hold shards write each its own.
Either is read by any number of ranks, in shards or not.

A checkpoint is written under another name and renamed when it is whole, so a kill leaves none that is half-written.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import torch

from scorl.errors import UserError
from scorl.learner import Learner
from scorl.learner.dcp import read_shards, sharded_keys, write_shards
from scorl.run.directory import RunDirectory
from scorl.run.files import replacing

__all__ = ["load", "prune", "save"]


def save(directory: RunDirectory, learner: Learner, reward: float | None) -> None:
    """Write `checkpoints/step-N`, N being the updates made; idempotent. All ranks take part.

    Args:
        directory: of the run.
        learner: policy and trainer state.
        reward: mean training reward since the checkpoint before; the highest marks the best.
    """
    folder = directory.checkpoint(learner.updates)
    draft = folder.with_name(f".{folder.name}.draft")
    if learner.ranks.main:
        shutil.rmtree(draft, ignore_errors=True)
        (draft / "trainer").mkdir(parents=True)
    learner.ranks.barrier("the folder of a checkpoint")
    learner.strategy.save(draft)
    if learner.strategy.sharded:
        write_shards(learner, draft / "trainer" / "state")
    elif learner.ranks.main:
        torch.save(learner.state(), draft / "trainer" / "state.pt")
    if learner.ranks.main:
        (draft / "trainer" / "training_reward.json").write_text(json.dumps(reward))
        if folder.exists():  # a folder is not replaced in one go, as a file is
            _remove(folder)
        os.replace(draft, folder)


def load(directory: RunDirectory, learner: Learner) -> int:
    """Put the newest checkpoint's state into the learner; the number of updates it had made (0: there is none).

    What a kill left half-written is deleted. All ranks take part.

    Raises:
        UserError: the checkpoint is a model alone, or was written by a version of scorl with another state.
    """
    if learner.ranks.main:
        _remove_drafts(directory)
    steps = directory.saved_steps()
    if not steps:
        return 0
    folder = directory.checkpoint(steps[-1])
    shards, whole = folder / "trainer" / "state", folder / "trainer" / "state.pt"
    if shards.is_dir():
        _check_version(folder, sharded_keys(shards), learner)
        read_shards(learner, shards)
    elif whole.exists():
        state = torch.load(whole, map_location="cpu", weights_only=True)
        _check_version(folder, set(state), learner)
        learner.load_state(state)
    else:
        raise UserError(f"{folder}: holds no trainer state, so the run cannot resume from it")
    return learner.updates


def _check_version(folder: Path, keys: set[str], learner: Learner) -> None:
    if keys - learner.state().keys():
        raise UserError(
            f"{folder}: its trainer state is another version's of scorl, so the run cannot be resumed; "
            f"start a new one from its weights: scorl train RECIPE model.path={folder} --out NEW"
        )


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


def _remove_drafts(directory: RunDirectory) -> None:
    for draft in directory.checkpoints.glob(".*.draft*"):
        if draft.is_symlink():
            draft.unlink()
        else:
            shutil.rmtree(draft)


def _reward(checkpoint: Path) -> float | None:
    reward: float | None = json.loads((checkpoint / "trainer" / "training_reward.json").read_text())
    return reward


def _remove(checkpoint: Path) -> None:
    """Delete a checkpoint; a kill on the way leaves a draft, never half a checkpoint."""
    gone = checkpoint.with_name(f".{checkpoint.name}.gone.draft")
    shutil.rmtree(gone, ignore_errors=True)
    os.replace(checkpoint, gone)
    shutil.rmtree(gone)
