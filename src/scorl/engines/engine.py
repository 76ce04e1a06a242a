"""What an engine is: token ids in, sampled token ids with their log-probabilities out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from scorl.trajectory import Finish, Message

__all__ = ["Arithmetic", "Dialogue", "Engine", "OwnWeights", "Request", "Sample", "Streaming", "token_budgets"]

Arithmetic = Literal["same", "other", "none"]
"""How an engine comes to its log-probabilities: by the policy's own modules (`same`), by another implementation of the
model on the same weights (`other`), or by no model at all (`none`)."""


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
    tokens: int | None = None
    """How many tokens the response took, where `ids` are none; -1: nobody says."""


class Dialogue(Protocol):
    """Conversations as ids: `scorl.model.chat.Chat` of a model that is loaded here, or messages for one that is not."""

    def prompt(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """What is asked first."""
        ...

    def follow(
        self, prompt_ids: Sequence[int], sample_ids: Sequence[int], message: str, turn: int = 1
    ) -> tuple[int, ...]:
        """What is asked next: begins with `prompt_ids + sample_ids`; `turn` user messages came before this one."""
        ...

    def reply(self, text: str) -> tuple[int, ...]:
        """An answer as if a model had written it."""
        ...

    def text(self, ids: Sequence[int]) -> str:
        """What a verifier reads of a response."""
        ...


class Engine(Protocol):
    """Writes responses with the current policy."""

    @property
    def chat(self) -> Dialogue:
        """Makes the prompts of this engine's model, and reads its responses."""
        ...

    @property
    def arithmetic(self) -> Arithmetic:
        """How it comes to its log-probabilities; `scorl.learner.guards.GAP_LIMITS` says how closely the learner must
        then agree."""
        ...

    @property
    def batch_size(self) -> int:
        """The most responses that are written at once; `sample` takes any number."""
        ...

    def sample(
        self, requests: Sequence[Request], *, temperature: float, max_tokens: int, keep: bool = False
    ) -> list[Sample]:
        """One sample for each request, in order; temperature 0 is greedy.

        `keep` says that the next call continues these responses: what was computed of them may be kept for it.

        The log-probabilities are those of the distribution drawn from (at temperature 0: of temperature 1).
        A response that runs into the model's own limit of positions ends with "length" too; it is empty where the
        prompt alone fills them.

        A draw depends on the request and the policy, not on which other requests share the batch.
        """
        ...


@runtime_checkable
class OwnWeights(Protocol):
    """What an engine has besides that samples from a copy of the weights, in a server of its own.

    `scorl.training.handover` calls these around everything that is sampled; who calls `sample` alone need not.
    """

    def load_weights(self) -> None:
        """Take over the policy's weights as they stand; it is whole (not in shards) while this is called."""
        ...

    def check_weights(self) -> float | None:
        """How far the engine is from the policy whose weights it was sent, on the log-probabilities of fixed tokens;
        None: it was sent none. The policy is not looked at.

        Raises:
            GuardError: it would sample from another policy.
        """
        ...

    def sleep(self) -> None:
        """Leave the memory to the learner; the weights may be forgotten."""
        ...


@runtime_checkable
class Streaming(Protocol):
    """What an engine has besides that shows a response while it is written."""

    def stream(
        self, request: Request, show: Callable[[str], None], *, temperature: float, max_tokens: int, keep: bool = False
    ) -> Sample:
        """The sample that `sample` returns for a request; `show` is told its text in pieces, as they are written.

        The pieces together are the text of the sample. No piece is empty or ends within a character; what is in them is
        the model's, control characters included. What `show` raises ends the response, and goes on to the caller.
        """
        ...


def token_budgets(requests: Sequence[Request], max_tokens: int, max_positions: int | None) -> list[int]:
    """How many tokens each response may take; 0 where the prompt alone fills the model's positions."""
    if max_positions is None:
        return [max_tokens] * len(requests)
    return [max(0, min(max_tokens, max_positions - len(request.prompt_ids))) for request in requests]
