"""Weights to a server on GPUs of its own, by the sender of vLLM's NCCL weight transfer. Not run: it needs two GPUs.

The learner's process is rank 0 of a process group with the server's workers, beside those that it may be in already.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import urlsplit

import torch
from torch import Tensor

from scorl.engines.vllm.client import Poster
from scorl.errors import UserError
from scorl.model.policy import Policy

__all__ = ["NcclSender"]


class NcclSender:
    """All weights by broadcast, packed into buffers, while the server's workers receive them.

    Args:
        server: runs with vLLM's backend `nccl`.
        policy: whose weights; on a GPU.
        url: of the server; None: it is on this machine.

    Raises:
        UserError: vLLM, whose sender this is, is not installed here.
    """

    sends_all: ClassVar[bool] = True

    def __init__(self, server: Poster, policy: Policy, url: str | None) -> None:
        try:
            from vllm.distributed.weight_transfer.nccl_engine import (
                NCCLTrainerInitInfo,
                NCCLTrainerWeightTransferEngine,
            )
        except ImportError:
            raise UserError(
                "engine: weights reach GPUs that are not the learner's by vLLM's own sender, so vLLM must be installed "
                "here too: pip install 'scorl[vllm]'"
            ) from None
        workers = server.get("/get_world_size")["world_size"]
        address = _address_for(url)
        start = NCCLTrainerInitInfo(address, _free_port(), workers + 1, rank=0)
        self._device = policy.device
        with torch.cuda.device(self._device):
            self._engine = NCCLTrainerWeightTransferEngine.trainer_init(
                start, client=_Routes(server), source=_Weights(policy)
            )

    def send(self) -> None:
        """See `scorl.engines.vllm.transfer.WeightSender`."""
        with torch.cuda.device(self._device):
            self._engine.send_weights()


@dataclass(frozen=True)
class _Routes:
    """The routes of a server as vLLM's senders call them; two run while this process takes part in a broadcast."""

    server: Poster

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        self.server.post("/init_weight_transfer_engine", {"init_info": init_info})

    def start_weight_update(self) -> None:
        self.server.post("/start_weight_update")

    def update_weights(self, update_info: Any) -> None:
        self.server.post("/update_weights", {"update_info": update_info})

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self.server.post("/finish_weight_update")


@dataclass(frozen=True)
class _Weights:
    """A policy's weights as vLLM's senders read them."""

    policy: Policy

    def metadata(self) -> list[Any]:
        """Name, type and shape of each, in the order of iteration."""
        from vllm.distributed.weight_transfer.base import ParamMeta

        return [ParamMeta(name, weight.dtype, tuple(weight.shape)) for name, weight in self]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return self.policy.weights()


def _address_for(url: str | None) -> str:
    """The address under which the server reaches this machine."""
    if url is None:
        return "127.0.0.1"
    parts = urlsplit(url)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:  # sends nothing: asks for the way
        probe.connect((parts.hostname, parts.port or 80))
        return str(probe.getsockname()[0])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
