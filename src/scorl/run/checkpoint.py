"""Checkpoints: an ordinary Hugging Face folder, and beside its files what the trainer needs to go on to the bit.

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
from scorl.learner.dcp import read_shards, write_shards
from scorl.model.loading import saved_steps

__all__ = ["load", "prune", "save"]


def save(run: Path, learner: Learner, reward: float | None) -> Path:
    """Write `checkpoints/step-N`, N being the updates made; idempotent. All ranks take part.

    Args:
        run: the run directory.
        learner: policy and trainer state.
        reward: mean training reward since the checkpoint before; the highest marks the best.
    """
    folder = run / "checkpoints" / f"step-{learner.updates}"
    draft = folder.with_name(f".{folder.name}.draft")
    if learner.ranks.main:
        shutil.rmtree(draft, ignore_errors=True)
        (draft / "trainer").mkdir(parents=True)
    learner.ranks.barrier("the folder of a checkpoint")
    learner.division.save(draft)
    if learner.division.in_shards:
        write_shards(learner, draft / "trainer" / "state")
    elif learner.ranks.main:
        torch.save(learner.state(), draft / "trainer" / "state.pt")
    if learner.ranks.main:
        (draft / "trainer" / "training_reward.json").write_text(json.dumps(reward))
        if folder.exists():
            _remove(folder)
        os.replace(draft, folder)
    return folder


def load(run: Path, learner: Learner) -> int:
    """Put the newest checkpoint's state into the learner; the number of updates it had made (0: there is none).

    What a kill left half-written is deleted. All ranks take part.
    """
    newest = learner.ranks.broadcast(lambda: _newest(run), "the newest checkpoint")
    if newest is None:
        return 0
    trainer = run / "checkpoints" / f"step-{newest}" / "trainer"
    if (trainer / "state").is_dir():
        read_shards(learner, trainer / "state")
    else:
        learner.load_state(torch.load(trainer / "state.pt", map_location="cpu", weights_only=True))
    return learner.updates


def _newest(run: Path) -> int | None:
    """The newest checkpoint's step, after what a kill left of another was deleted."""
    for draft in (run / "checkpoints").glob(".*.draft"):
        shutil.rmtree(draft, ignore_errors=True)
    steps = saved_steps(run)
    if not steps:
        return None
    folder = run / "checkpoints" / f"step-{steps[-1]}"
    if not any((folder / "trainer" / name).exists() for name in ("state", "state.pt")):
        raise UserError(f"{folder}: holds no trainer state, so the run cannot go on from it")
    return steps[-1]


def prune(run: Path, keep: int) -> None:
    """Mark the best checkpoint, and delete all but it and the last `keep`."""
    steps = saved_steps(run)
    rewards = {step: reward for step in steps if (reward := _reward(run, step)) is not None}
    best = max(rewards, key=lambda step: rewards[step]) if rewards else None
    if best is not None:
        _point(run / "checkpoints" / "best", f"step-{best}")
    for step in steps[:-keep]:
        if step != best:
            _remove(run / "checkpoints" / f"step-{step}")


def _reward(run: Path, step: int) -> float | None:
    text = (run / "checkpoints" / f"step-{step}" / "trainer" / "training_reward.json").read_text()
    reward: float | None = json.loads(text)
    return reward


def _remove(folder: Path) -> None:
    """Delete a checkpoint; a kill on the way leaves a draft, never half a checkpoint."""
    gone = folder.with_name(f".{folder.name}.gone.draft")
    shutil.rmtree(gone, ignore_errors=True)
    os.replace(folder, gone)
    shutil.rmtree(gone)


def _point(link: Path, target: str) -> None:
    draft = link.with_name(".best.draft")
    draft.unlink(missing_ok=True)
    draft.symlink_to(target)
    os.replace(draft, link)
