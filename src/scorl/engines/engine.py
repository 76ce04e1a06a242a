"""What an engine is: token ids in, sampled token ids with their log-probabilities out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from scorl.model.chat import Chat
from scorl.trajectory import Finish

__all__ = ["Engine", "Request", "Sample", "rooms"]


@dataclass(frozen=True, slots=True)
class Request:
    """One response wanted: the context as ids, and the seed that alone decides the draw."""

    prompt_ids: tuple[int, ...]
    seed: int


@dataclass(frozen=True, slots=True)
class Sample:
    """One response: the ids drawn (the end token included), their log-probabilities, and why it ended."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish: Finish


class Engine(Protocol):
    """Writes responses with the current policy."""

    @property
    def chat(self) -> Chat:
        """Makes the prompts of this engine's model, and says what ends its responses."""
        ...

    def load(self) -> float | None:
        """Take over the policy's weights as they stand, where the engine has weights of its own.

        Returns the largest difference that the check behind it found on a token's log-probability; None: the engine
        samples with the policy's own weights. `sample` does it too, so it need not be called.
        """
        ...

    def sample(
        self, requests: Sequence[Request], *, temperature: float, max_tokens: int, keep: bool = False
    ) -> list[Sample]:
        """One sample for each request, in order; temperature 0 is greedy.

        `keep` says that the next call goes on from these responses: what was computed of them may be kept for it.

        The log-probabilities are those of the distribution drawn from (at temperature 0: of temperature 1).
        A response that runs into the model's own limit of positions ends with "length" too; it is empty where the
        prompt alone fills them.

        A draw depends on the request and the policy, not on which other requests share the batch.
        """
        ...


def rooms(requests: Sequence[Request], max_tokens: int, limit: int | None) -> list[int]:
    """How many tokens each response may take; 0 where the prompt alone fills the model's positions."""
    return [max_tokens if limit is None else max(0, min(max_tokens, limit - len(r.prompt_ids))) for r in requests]
