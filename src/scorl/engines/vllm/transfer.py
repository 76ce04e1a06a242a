"""How a policy's weights get into vLLM's server.

| where the server is | how | run |
| -- | -- | -- |
| on the learner's one GPU | `ipc`: the weights stay where they are, and the server opens them | no |
| on GPUs of its own | `nccl`: vLLM's broadcast over a process group of its own (`nccl.py`) | no |
| on a CPU, or on several GPUs with learners on them | `file`: each of the server's workers takes its part | on CPUs |
| wherever this process starts it for adapters | `adapters`: those alone, as peft writes them | on CPUs |
"""

from __future__ import annotations

import base64
import pickle
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.multiprocessing.reductions import reduce_tensor

from scorl.engines.vllm.client import Poster
from scorl.errors import GuardError
from scorl.model.adapters import adapters_are_plain
from scorl.model.loading import resolve_model
from scorl.model.policy import Policy
from scorl.settings import VllmSettings

__all__ = ["AdapterSender", "FileSender", "IpcSender", "Way", "WeightSender", "choose_way", "update_weights"]

Way = Literal["ipc", "nccl", "file", "adapters"]
"""How weights cross; but for adapters the name of the backend of vLLM's weight transfer."""
SHARED_MEMORY = "/dev/shm"
SPARE_BYTES = 2**20
"""Left free where a file is written."""
GIB = 2**30


def choose_way(policy: Policy, settings: VllmSettings) -> Way:
    """How this policy's weights reach the server of these settings."""
    if (
        adapters_are_plain(policy)
        and not settings.merge_adapters
        and not settings.url
        and resolve_model(policy.path).are_plain
    ):
        return "adapters"
    if policy.device.type != "cuda":
        return "file"
    if settings.is_elsewhere:
        return "nccl"
    return "ipc" if settings.tensor_parallel_size == 1 else "file"


class WeightSender(Protocol):
    """Brings the policy's weights as they stand to a server."""

    sends_all: ClassVar[bool]
    """Whether each time all weights cross, so that the server may forget its own before."""

    def send(self) -> str | None:
        """Send them; the name under which the server knows the model that has them, None: its only one."""
        ...


def update_weights(server: Poster, update: Mapping[str, Any]) -> None:
    """vLLM's three steps by which weights are taken over."""
    server.post("/start_weight_update")
    server.post("/update_weights", {"update_info": update})
    server.post("/finish_weight_update")


@dataclass
class FileSender:
    """All weights through a file, of which each of the server's workers takes its part (`inside/scorl_in_vllm.py`)."""

    server: Poster
    policy: Policy
    mend: bool = True
    """Process a tied head after a transfer; tests switch it off to see that the check finds what follows."""
    sends_all: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.server.post("/init_weight_transfer_engine", {"init_info": {}})

    def send(self) -> None:
        """See `WeightSender`."""
        weights = {name: weight.contiguous().cpu() for name, weight in self.policy.weights()}
        with folder_with_room(sum(weight.nbytes for weight in weights.values())) as folder:
            path = folder / "policy.safetensors"
            save_file(weights, path)
            update_weights(self.server, {"path": str(path), "mend": self.mend})


@dataclass
class IpcSender:
    """All weights where they are: handles of their memory on the GPU cross, as vLLM's backend `ipc` takes them."""

    server: Poster
    policy: Policy
    sends_all: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.server.post("/init_weight_transfer_engine", {"init_info": {}})

    def send(self) -> None:
        """See `WeightSender`; the memory is this process's alone again afterwards."""
        weights = {name: weight.contiguous() for name, weight in self.policy.weights()}
        update_weights(self.server, _ipc_handles(weights))
        del weights
        torch.cuda.ipc_collect()  # type: ignore[no-untyped-call]


@dataclass
class AdapterSender:
    """Adapters alone; the server has read the model below them by itself.

    Each time under a new name from a new folder: what the server keeps of a prompt goes by the name, and an adapter
    that was loaded in place of another would be read again with every token.
    """

    server: Poster
    policy: Policy
    sends_all: ClassVar[bool] = False
    _sent: int = field(default=0, init=False)
    _folder: tempfile.TemporaryDirectory[str] | None = field(default=None, init=False)

    def send(self) -> str | None:
        """See `WeightSender`; None where the policy's adapters are switched off."""
        if not self.policy.adapters_are_on:
            return None
        size = sum(parameter.nbytes for parameter in self.policy.parameters.values())
        old, self._folder = self._folder, tempfile.TemporaryDirectory(prefix="scorl-adapters-", dir=find_room(size))
        self._sent += 1
        self.policy.save_adapters(Path(self._folder.name))
        self.server.post("/v1/load_lora_adapter", {"lora_name": self._name, "lora_path": self._folder.name})
        if old is not None:
            self.server.post("/v1/unload_lora_adapter", {"lora_name": f"adapters-{self._sent - 1}"})
            old.cleanup()
        return self._name

    @property
    def _name(self) -> str:
        return f"adapters-{self._sent}"


def _ipc_handles(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Weights on a GPU as the backend `ipc` takes them over HTTP."""
    device = str(torch.cuda.get_device_properties(next(iter(weights.values())).device).uuid)
    handles = [{device: reduce_tensor(weight)[1]} for weight in weights.values()]  # type: ignore[no-untyped-call]
    return {
        "names": list(weights),
        "dtype_names": [str(weight.dtype).removeprefix("torch.") for weight in weights.values()],
        "shapes": [list(weight.shape) for weight in weights.values()],
        "ipc_handles_pickled": base64.b64encode(pickle.dumps(handles)).decode(),
    }


@contextmanager
def folder_with_room(size: int) -> Iterator[Path]:
    """A folder for a file of so many bytes, which is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="scorl-weights-", dir=find_room(size)) as folder:
        yield Path(folder)


def find_room(size: int) -> str:
    """Where a file of so many bytes has room: in shared memory, so that it touches no disk, else on the disk.

    Raises:
        GuardError: there is none.
    """
    free = {place: _free_bytes(place) for place in (SHARED_MEMORY, tempfile.gettempdir())}
    place = next((place for place in free if size + SPARE_BYTES <= free[place]), None)
    told = ", ".join(f"{name} has {bytes_ / GIB:.2f} GiB free" for name, bytes_ in free.items())
    if place is None:
        raise GuardError(
            f"no room for {size / GIB:.2f} GiB of weights on their way to vLLM: {told}. TMPDIR names another folder"
        )
    if place != SHARED_MEMORY:
        warnings.warn(
            f"{size / GIB:.2f} GiB of weights go to vLLM through a file in {place}, since {told}; in a container "
            f"--shm-size={2 * size / GIB + 1:.0f}g makes shared memory larger",
            stacklevel=2,
        )
    return place


def _free_bytes(folder: str) -> int:
    return shutil.disk_usage(folder).free if Path(folder).is_dir() else 0
