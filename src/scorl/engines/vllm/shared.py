"""One vLLM server for several ranks: one of them speaks with it for all."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from scorl.distributed.ranks import Ranks
from scorl.engines.engine import Arithmetic, Request, Sample
from scorl.engines.vllm.engine import VllmEngine
from scorl.errors import GuardError, UserError
from scorl.model.chat import Chat
from scorl.model.policy import Policy
from scorl.settings import VllmSettings

__all__ = ["SharedEngine", "share_engine"]

T = TypeVar("T")
R = TypeVar("R")


def share_engine(engine: VllmEngine, ranks: Ranks) -> VllmEngine | SharedEngine:
    """The engine of a rank, shared where its server is not the rank's own.

    A server elsewhere is everybody's. One that holds its model on several GPUs is that of the ranks on these.
    """
    settings, model = engine.settings, engine.model
    if ranks.size == 1 or not isinstance(model, Policy):
        return engine
    if settings.is_elsewhere:
        return SharedEngine(engine, ranks, leader=0)
    if model.device.type != "cuda" or settings.tensor_parallel_size == 1:
        return engine
    return SharedEngine(engine, ranks, find_leader(model.device, settings, ranks))


def find_leader(device: torch.device, settings: VllmSettings, ranks: Ranks) -> int:
    """The rank on the first of the GPUs that hold the server's model together; this rank is on one of them.

    Raises:
        UserError: the machine's ranks are not a multiple of these GPUs, or not on neighbouring ones.
    """
    size, host = settings.tensor_parallel_size, socket.gethostname()
    places = ranks.all_gather((host, device.index), "the GPUs of the ranks")
    here = sorted((gpu, rank) for rank, (name, gpu) in enumerate(places) if name == host)
    start = here.index((device.index, ranks.rank)) // size * size
    group = here[start : start + size]
    if len(here) % size or [gpu for gpu, _ in group] != list(range(group[0][0], group[0][0] + size)):
        raise UserError(
            f"engine.tensor_parallel_size: {size} neighbouring GPUs hold a server's model together, and the ranks on "
            f"{host} are on {', '.join(f'cuda:{gpu}' for gpu, _ in here)}: take a divisor of their number"
        )
    return group[0][1]


@dataclass(frozen=True, eq=False)
class SharedEngine:
    """A rank's part of an engine that several ranks share; their leader alone uses it.

    Every method is a collective of all ranks, also of those that ask for nothing; an error of one leader is raised on
    every rank.
    """

    engine: VllmEngine
    ranks: Ranks
    leader: int

    @property
    def chat(self) -> Chat:
        """The chat of the model."""
        return self.engine.chat

    @property
    def arithmetic(self) -> Arithmetic:
        """vLLM's."""
        return self.engine.arithmetic

    @property
    def batch_size(self) -> int:
        """The server's, which its ranks fill together or one by one."""
        return self.engine.batch_size

    def load_weights(self) -> None:
        """See `scorl.engines.engine.OwnWeights`."""
        if isinstance(self.engine.model, Policy) and self.engine.model.device.type == "cuda":
            torch.cuda.empty_cache()  # the server is on this rank's GPU too
        self._together(None, lambda _: self.engine.load_weights())

    def check_weights(self) -> float | None:
        """See `scorl.engines.engine.OwnWeights`."""
        return self._together(None, lambda _: self.engine.check_weights())

    def sleep(self) -> None:
        """See `scorl.engines.engine.OwnWeights`."""
        self._together(None, lambda _: self.engine.sleep())

    def sample(
        self, requests: Sequence[Request], *, temperature: float, max_tokens: int, keep: bool = False
    ) -> list[Sample]:
        """See `scorl.engines.engine.Engine.sample`; the leader writes what its ranks ask for, all at once."""

        def sample_all(asked: dict[int, tuple[Request, ...]]) -> dict[int, list[Sample]]:
            every = [request for of_rank in asked.values() for request in of_rank]
            samples = iter(self.engine.sample(every, temperature=temperature, max_tokens=max_tokens, keep=keep))
            return {rank: [next(samples) for _ in of_rank] for rank, of_rank in asked.items()}

        return self._together(tuple(requests), sample_all)[self.ranks.rank]

    def _together(self, value: T, act: Callable[[dict[int, T]], R]) -> R:
        """What the leader makes of its ranks' values, which all ranks wait for."""
        values = self.ranks.all_gather((self.leader, value), "what is asked of a shared vLLM server")
        outcome: tuple[R | None, Exception | None] = (None, None)
        if self.leader == self.ranks.rank:
            try:
                outcome = act({rank: v for rank, (leader, v) in enumerate(values) if leader == self.leader}), None
            except (UserError, GuardError) as fault:
                outcome = None, fault
        outcomes = self.ranks.all_gather(outcome, "a shared vLLM server")
        for error in [error for _, error in outcomes if error is not None]:
            raise error
        return outcomes[self.leader][0]  # type: ignore[return-value]
