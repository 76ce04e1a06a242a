"""Ranks: the processes that learn together, and their collectives.

Every rank runs the same program and calls the same collectives in the same order, so what follows from a result is the
same everywhere. Rank 0 alone touches the run directory and broadcasts what it reads there. A single process is rank 0
of 1: its collectives return at once, and torch.distributed is not imported.
"""

from __future__ import annotations

import atexit
import os
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, NoReturn, TypeVar

from scorl.errors import GuardError, PeerLostError, UserError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed import ProcessGroup

__all__ = ["ALONE", "Ranks", "current_ranks", "exit_process", "launched_rank", "local_world_size", "process_group"]

T = TypeVar("T")

BUCKET = 2**24
"""Numbers summed in one all-reduce: 64 MiB of float32."""


@dataclass(frozen=True)
class Ranks:
    """This process's rank, and the collectives of all ranks.

    A collective ends with an error after the process group's timeout; `what` names in it what was waited for.
    """

    rank: int = 0
    size: int = 1
    group: ProcessGroup | None = None
    """Whose messages are apart from others'; None: the default one's."""

    @property
    def main(self) -> bool:
        """Whether this rank writes the run directory."""
        return self.rank == 0

    def shard(self, count: int) -> slice:
        """This rank's shard of so many things: contiguous, and as large as the others' but for one.

        >>> [Ranks(rank, 2).shard(5) for rank in (0, 1)]
        [slice(0, 2, None), slice(2, 5, None)]
        """
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def all_gather(self, value: T, what: str) -> list[T]:
        """Every rank's value, in order of ranks; values travel pickled."""
        if self.size == 1:
            return [value]
        from torch import distributed

        values: list[T | None] = [None] * self.size
        with self.collective(what):
            distributed.all_gather_object(values, value, group=self.group)
        return values  # type: ignore[return-value]

    def all_concat(self, values: Sequence[T], what: str) -> list[T]:
        """The values of all ranks, concatenated in order of ranks."""
        return [value for part in self.all_gather(list(values), what) for value in part]

    def any(self, flag: bool, what: str) -> bool:
        """Whether the flag is true on one rank at least."""
        return any(self.all_gather(flag, what))

    def broadcast(self, compute: Callable[[], T], what: str) -> T:
        """What `compute` returns on rank 0, which alone calls it; errors for the user are raised on every rank."""
        if self.size == 1:
            return compute()
        from torch import distributed

        outcome: list[tuple[T | None, Exception | None]] = [(None, None)]
        if self.main:
            try:
                outcome = [(compute(), None)]
            except (UserError, GuardError) as error:  # any other ends this rank, and the others lose their peer
                outcome = [(None, error)]
        with self.collective(what):
            distributed.broadcast_object_list(outcome, src=0, group=self.group)
        value, error_of_main = outcome[0]
        if error_of_main is not None:
            raise error_of_main
        return value  # type: ignore[return-value]

    def all_reduce(self, tensors: Sequence[Tensor], what: str) -> None:
        """Replace tensors of one dtype by their sums over the ranks, in as few messages as `BUCKET` allows."""
        if self.size == 1:
            return
        import torch

        with self.collective(what):
            for bucket in _buckets(tensors):
                flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
                torch.distributed.all_reduce(flat, group=self.group)
                parts = torch.split(flat, [tensor.numel() for tensor in bucket])
                for tensor, part in zip(bucket, parts, strict=True):
                    tensor.copy_(part.view_as(tensor))

    def barrier(self, what: str) -> None:
        """Wait until all ranks are here."""
        self.all_gather(None, what)

    def apart(self) -> Ranks:
        """The same ranks for another thread, whose collectives do not meet those of this one; a collective."""
        if self.size == 1:
            return self
        from torch import distributed

        with self.collective("a process group for checkpoints"):
            return replace(self, group=distributed.new_group(backend="gloo"))

    @contextmanager
    def collective(self, what: str) -> Iterator[None]:
        """What torch raises within because a rank is missing becomes a `PeerLostError` that names `what`.

        Raises:
            PeerLostError: another rank has ended, or did not come in time.
        """
        try:
            yield
        except RuntimeError as error:
            if self.size == 1 or not any(word in str(error) for word in LOST):
                raise
            raise PeerLostError(
                f"rank {self.rank} of {self.size} waited for {what} in vain: another rank has ended, or takes longer "
                f"than launcher.timeout: {error}"
            ) from error


ALONE = Ranks()
"""A single process, which shares nothing."""

LOST = ("onnection", "imed out", "imeout", "NCCL", "closed by peer", "emote process")
"""Words in the errors of gloo, NCCL and their store about a peer that is missing: they have no class of their own."""


def launched_rank() -> int | None:
    """Which rank a launcher such as torchrun has made this process; None: it was started by itself."""
    return int(os.environ["RANK"]) if {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= set(os.environ) else None


def local_world_size() -> int:
    """Ranks on this machine, which share its cores."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


@contextmanager
def process_group(workers: int | None, timeout: float, device: str) -> Iterator[Ranks]:
    """Join the process group of the ranks that a launcher such as torchrun has started.

    Args:
        workers: how many there should be; None: as many as there are.
        timeout: seconds that any of them waits for the others.
        device: what the model is to run on, as recipes say it.

    Raises:
        UserError: there are more or fewer.
    """
    size = int(os.environ["WORLD_SIZE"]) if launched_rank() is not None else 1
    if workers not in (None, size):
        raise UserError(
            f"launcher.workers: {workers} processes were asked for, and {size} started: let launcher.name start them, "
            f"or run torchrun --nproc-per-node {workers} -m scorl train ..."
        )
    if size == 1:
        yield ALONE
        return
    from torch import distributed

    backend = _prepare(device)
    distributed.init_process_group(backend, timeout=timedelta(seconds=timeout))
    yield current_ranks()
    distributed.destroy_process_group()  # not after an error: the others may be gone, and this would wait for them


def exit_process(code: int) -> NoReturn:
    """End this process with an exit code; a rank goes without the interpreter's shutdown.

    A gloo thread drops a message's tensors after it has reported the message, for which it needs the interpreter. Where
    that shuts down meanwhile, Python unwinds the thread through torch's noexcept code, which aborts the process: a rank
    that only lost a peer would look like the one that failed. Nothing ends these threads in time: destroying the group
    waits for lost peers, and DTensor's caches keep the group of FSDP2 alive. So a rank ends as multiprocessing's forked
    children do.
    """
    if launched_rank() is None:
        sys.exit(code)
    atexit._run_exitfuncs()  # worker processes and servers are stopped there
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def current_ranks() -> Ranks:
    """This process in torch's process group, whoever made that."""
    from torch import distributed

    return Ranks(distributed.get_rank(), distributed.get_world_size())


def _prepare(device: str) -> str:
    """Give each rank its GPU, or gloo the interface that leads to this machine; the name of the backend."""
    import torch

    if device != "cpu" and torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        return "cpu:gloo,cuda:nccl"
    names = [name for _, name in socket.if_nameindex()]
    if str(local_world_size()) == os.environ["WORLD_SIZE"] and "lo" in names:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # a host name may lead to no interface at all
    return "gloo"


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """The tensors in order, in lists of at most `BUCKET` numbers; a larger one stands alone."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        if bucket and sum(t.numel() for t in bucket) + tensor.numel() > BUCKET:
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket
