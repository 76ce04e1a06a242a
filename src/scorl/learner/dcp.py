"""The trainer's state in shards, by torch's distributed checkpoints (DCP): any number of ranks reads what any wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from scorl.learner.update import Learner

__all__ = ["read_shards", "write_shards"]


def write_shards(learner: Learner, folder: Path) -> None:
    """Write each rank's shards of the learner's state; all ranks take part."""
    from torch.distributed.checkpoint.state_dict_saver import save

    with learner.ranks.collective("the shards of a checkpoint"):
        save(_filled(learner), checkpoint_id=folder)


def read_shards(learner: Learner, folder: Path) -> None:
    """Put what `write_shards` wrote into a learner, in shards or whole; all ranks take part."""
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.state_dict_loader import load

    state = _filled(learner)
    known = FileSystemReader(folder).read_metadata().state_dict_metadata
    if any(key.startswith("reference.") for key in known):
        state["reference"] = {name: torch.empty_like(weights) for name, weights in state["weights"].items()}
    with learner.ranks.collective("the shards of a checkpoint"):
        load(state, checkpoint_id=folder, no_dist=not learner.division.in_shards)
    learner.load_state(state)


def _filled(learner: Learner) -> dict[str, Any]:
    """The learner's state; moments that are not there yet are 0, which says the same and gives shards a place."""
    state = learner.state()
    moments = state["optimizer"]["state"]
    for number, weights in enumerate(state["weights"].values()):
        zeros = {name: torch.zeros_like(weights) for name in ("exp_avg", "exp_avg_sq")}
        moments.setdefault(number, {"step": torch.zeros((), dtype=torch.float32), **zeros})
    return state
