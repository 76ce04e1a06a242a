"""The trainer's state in shards, by torch's distributed checkpoints (DCP): any number of ranks reads what any wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from scorl.learner.update import Learner

__all__ = ["read_shards", "sharded_keys", "write_shards"]


def write_shards(learner: Learner, folder: Path) -> None:
    """Write each rank's shards of the learner's state; a collective."""
    from torch.distributed.checkpoint.state_dict_saver import save

    with learner.ranks.collective("the shards of a checkpoint"):
        save(_full_state(learner), checkpoint_id=folder)


def read_shards(learner: Learner, folder: Path) -> None:
    """Put what `write_shards` wrote into a learner, sharded or not; a collective."""
    from torch.distributed.checkpoint.state_dict_loader import load

    state, names = _full_state(learner), _written_names(folder)
    state["adaptive"] = {name.removeprefix("adaptive."): 0.0 for name in names if name.startswith("adaptive.")}
    if any(name.startswith("reference.") for name in names):
        state["reference"] = {name: torch.empty_like(weights) for name, weights in state["weights"].items()}
    with learner.ranks.collective("the shards of a checkpoint"):
        load(state, checkpoint_id=folder, no_dist=not learner.strategy.sharded)
    learner.load_state(state)


def sharded_keys(folder: Path) -> set[str]:
    """The keys of the state that `write_shards` wrote; those of nothing (`{}`, None) may be missing."""
    return {name.partition(".")[0] for name in _written_names(folder)}


def _written_names(folder: Path) -> list[str]:
    """The dotted names of everything that `write_shards` wrote."""
    from torch.distributed.checkpoint.filesystem import FileSystemReader

    return list(FileSystemReader(folder).read_metadata().state_dict_metadata)


def _full_state(learner: Learner) -> dict[str, Any]:
    """The learner's state with zeros for moments that the optimiser does not have yet.

    DCP loads in place: what is not in the state is not read, whatever lies in the folder.
    """
    state = learner.state()
    moments = state["optimizer"]["state"]
    for number, weights in enumerate(state["weights"].values()):
        zeros = {name: torch.zeros_like(weights) for name in ("exp_avg", "exp_avg_sq")}
        moments.setdefault(number, {"step": torch.zeros((), dtype=torch.float32), **zeros})
    return state
