"""Tensors that may lie in shards on the ranks (DTensor), or whole on each."""

from __future__ import annotations

from functools import cache
from typing import Any

from torch import Tensor

__all__ = ["copy_to_host", "gather", "is_sharded", "local_shard", "shard_like"]


def is_sharded(tensor: Tensor) -> bool:
    """Whether this rank has a shard of it alone."""
    return hasattr(tensor, "placements")


def local_shard(tensor: Tensor) -> Tensor:
    """The part of a tensor that lies on this rank: its shard, or all of it where it is not sharded."""
    part: Tensor = tensor.detach()
    return part.to_local() if hasattr(part, "to_local") else part


def gather(tensor: Tensor) -> Tensor:
    """All of a tensor; of a sharded one a collective."""
    whole: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return whole


def shard_like(owner: Tensor, value: Tensor) -> Tensor:
    """This rank's shard of a whole tensor, if `owner` is sharded, else the tensor; without a collective."""
    if not is_sharded(owner) or is_sharded(value) or value.shape != owner.shape:
        return value
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(owner, DTensor)
    return distribute_tensor(value.to(owner.device), owner.device_mesh, owner.placements, src_data_rank=None)


def copy_to_host(tensor: Tensor) -> Tensor:
    """A copy in the host's memory, in shards as the tensor is."""
    part = local_shard(tensor).to("cpu", copy=True)
    if not is_sharded(tensor):
        return part
    from torch.distributed.tensor import DTensor

    assert isinstance(tensor, DTensor)
    mesh = _host_mesh(tensor.device_mesh.size())
    return DTensor.from_local(
        part, mesh, tensor.placements, run_check=False, shape=tensor.shape, stride=tensor.stride()
    )


@cache
def _host_mesh(size: int) -> Any:
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh("cpu", (size,))
