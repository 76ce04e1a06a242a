"""The learner's state in files that hold numbers and nothing else: safetensors, and JSON.

Torch's distributed checkpoints (DCP) write and read the tensors, in shards where ranks hold shards, so any number of
ranks reads what any wrote. Of DCP's storages the one for Hugging Face's format is used: it keeps its index as JSON in
the headers of the files. The usual one keeps a pickle, which runs code when it is read.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scorl.distributed.ranks import Ranks
from scorl.errors import GuardError, UserError
from scorl.learner.update import Learner
from scorl.model.shards import copy_to_host, local_shard

__all__ = ["State", "read_state", "read_updates", "take_state", "write_state"]

NUMBERS = "state.json"
MOMENTS = ("exp_avg", "exp_avg_sq")
FILE_BYTES = 1 << 29
"""Of the tensors in one file, about: DCP keeps a file in memory while it writes it."""


@dataclass(frozen=True)
class State:
    """A learner's state as it was when it was taken, or as it stands."""

    tensors: Mapping[str, Tensor]
    numbers: Mapping[str, Any]
    sharded: bool

    def write(self, folder: Path, ranks: Ranks) -> None:
        """Write it into a folder; a collective."""
        if self.sharded or ranks.main:
            from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
            from torch.distributed.checkpoint.state_dict_saver import save

            writer = HuggingFaceStorageWriter(str(folder), _file_numbers(self.tensors), save_distributed=True)
            with ranks.collective("the shards of a checkpoint"), _causes_raised(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that one process saves alone
                group = ranks.group if self.sharded else None
                save(dict(self.tensors), storage_writer=writer, process_group=group, no_dist=not self.sharded)
        if ranks.main:
            (folder / NUMBERS).write_text(json.dumps(self.numbers, indent=1) + "\n", encoding="utf-8")


def take_state(learner: Learner, copy: bool = False) -> State:
    """The state to be written; a collective.

    Args:
        learner: whose.
        copy: into the host's memory, so that the learner may go on; else the learner's own tensors are taken.

    Raises:
        GuardError: a number of it is not finite: a run that resumed there would be lost.
    """
    tensors, numbers = _split(learner.state())
    finite = all(math.isfinite(float(local_shard(tensor).sum())) for tensor in tensors.values())
    if learner.ranks.any(not finite, "whether the state is finite"):
        raise GuardError(
            f"weights or moments are not finite after {learner.updates} updates, so they are not saved: too high a "
            "learning rate, or a loss that overflows. The newest checkpoint is from before"
        )
    if copy:
        keep = learner.strategy.sharded or learner.ranks.main  # whole ones are written by rank 0
        tensors = {name: copy_to_host(tensor) for name, tensor in tensors.items()} if keep else {}
        numbers = json.loads(json.dumps(numbers))
    return State(tensors, numbers, learner.strategy.sharded)


def write_state(learner: Learner, folder: Path) -> None:
    """Write the learner's state into a folder; a collective. See `take_state`."""
    take_state(learner).write(folder, learner.ranks)


def read_updates(folder: Path) -> Any:
    """The updates behind the state in a folder."""
    return json.loads((folder / NUMBERS).read_text(encoding="utf-8")).get("updates")


def read_state(learner: Learner, folder: Path) -> None:
    """Put what `write_state` wrote into a learner, sharded or not; a collective.

    Raises:
        UserError: it is the state of another model.
    """
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    numbers = json.loads((folder / NUMBERS).read_text(encoding="utf-8"))
    weights = learner.state()["weights"]
    reader = HuggingFaceStorageReader(str(folder))
    saved: Mapping[str, Any] = reader.read_metadata().state_dict_metadata
    tensors = _empty_tensors(weights, {name: tuple(tensor.size) for name, tensor in saved.items()})
    with learner.ranks.collective("the shards of a checkpoint"), _causes_raised(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        load(tensors, storage_reader=reader, no_dist=not learner.strategy.sharded)
    learner.load_state(_join(tensors, numbers, list(weights)))


@contextmanager
def _causes_raised() -> Iterator[None]:
    """Raise what went wrong, as a full disk, in the place of DCP's exception about it, which is no `Exception`."""
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        yield
    except CheckpointException as error:
        cause, _ = next(iter(error.failures.values()))
        raise cause from None


def _split(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A learner's state as tensors by name, `weights/...`, and as what JSON can hold."""
    names, optimizer = list(state["weights"]), state["optimizer"]
    moments = {names[index]: kept for index, kept in optimizer["state"].items()}
    tensors = {
        **{f"weights/{name}": tensor for name, tensor in state["weights"].items()},
        **{f"reference/{name}": tensor for name, tensor in (state["reference"] or {}).items()},
        **{f"{moment}/{name}": kept[moment] for name, kept in moments.items() for moment in MOMENTS},
    }
    numbers = {key: value for key, value in state.items() if key not in ("weights", "reference", "optimizer")}
    steps = {name: float(kept["step"]) for name, kept in moments.items()}
    return tensors, {**numbers, "optimizer": {"param_groups": optimizer["param_groups"], "step": steps}}


def _join(tensors: Mapping[str, Tensor], numbers: Mapping[str, Any], names: list[str]) -> dict[str, Any]:
    """What `_split` split, for a learner whose parameters have these names, in this order."""
    steps = numbers["optimizer"]["step"]
    moments = {
        index: {"step": torch.tensor(steps[name]), **{moment: tensors[f"{moment}/{name}"] for moment in MOMENTS}}
        for index, name in enumerate(names)
        if name in steps
    }
    reference = {name: tensors[f"reference/{name}"] for name in names if f"reference/{name}" in tensors}
    return {
        **numbers,
        "weights": {name: tensors[f"weights/{name}"] for name in names},
        "reference": reference or None,
        "optimizer": {"param_groups": numbers["optimizer"]["param_groups"], "state": moments},
    }


def _empty_tensors(weights: Mapping[str, Tensor], saved: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Where the saved tensors go; sharded as the weights are.

    Raises:
        UserError: they belong to a model with other parameters.
    """
    trained = {name.removeprefix("weights/"): size for name, size in saved.items() if name.startswith("weights/")}
    if trained != (own := {name: tuple(tensor.shape) for name, tensor in weights.items()}):
        name = min(name for name in {*trained, *own} if trained.get(name) != own.get(name))
        raise UserError(
            f"the checkpoint is another model's: its weight {name} is {_describe(trained.get(name))} there and "
            f"{_describe(own.get(name))} in the recipe's model. Has the model at model.path changed?"
        )
    return {name: torch.empty_like(weights[name.partition("/")[2]]) for name in saved}


def _describe(size: tuple[int, ...] | None) -> str:
    return "missing" if size is None else " x ".join(map(str, size))


def _file_numbers(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """The number of the file that each tensor goes to, from 1."""
    ends = accumulate(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    return {name: 1 + (end - 1) // FILE_BYTES for name, end in zip(tensors, ends, strict=True)}
