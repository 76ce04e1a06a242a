"""vLLM writes the attempts: its server samples, the policy's weights are sent to it, and every transfer is checked.

The server is vLLM's own, in a process of its own, and may live in an environment of its own. It speaks in token ids and
keeps the keys and values of what it computed (its prefix cache), so a later turn computes only what is new.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, ClassVar

from scorl.engines.engine import Arithmetic, Request, Sample, token_budgets
from scorl.engines.vllm.check import check_sync, policy_logprobs, probe_ids
from scorl.engines.vllm.launch import ServedModel, start_server
from scorl.engines.vllm.server import Poster
from scorl.engines.vllm.transfer import pack_weights
from scorl.model.chat import Chat
from scorl.model.policy import Policy
from scorl.settings import VllmSettings

__all__ = ["VllmEngine"]

GENERATE = "/inference/v1/generate"
"""vLLM's route that takes and gives token ids."""


@dataclass(eq=False)
class VllmEngine:
    """Samples with vLLM, whose server starts with the first call.

    Args:
        model: a policy, whose weights are sent whenever they have changed since the last call; or a model that the
            server loads by itself, to evaluate it.
        settings: of the server and of the check.
        mend: process a tied head after a transfer; tests switch it off to see that the check finds what follows.
        server: one that runs already.
    """

    model: Policy | ServedModel
    settings: VllmSettings = field(default_factory=VllmSettings)
    mend: bool = True
    server: Poster | None = None
    arithmetic: ClassVar[Arithmetic] = "other"
    _fingerprint: tuple[float, ...] = field(default=(), init=False, repr=False)
    """Of the weights that the server has."""
    _sync_gap: float | None = field(default=None, init=False, repr=False)
    _asleep: bool = field(default=False, init=False, repr=False)

    @property
    def chat(self) -> Chat:
        """The chat of the model."""
        return self.model.chat

    def load_weights(self) -> float | None:
        """See `scorl.engines.engine.Engine.load_weights`.

        Raises:
            GuardError: the server samples from another policy than the one that was sent, or is dead.
        """
        if not isinstance(self.model, Policy):
            return None
        fingerprint = self.model.fingerprint()
        if fingerprint != self._fingerprint:
            server = self._awake_server()
            self._send_weights(server, self.model)
            self._sync_gap = self._check_weights(server, self.model)
            self._fingerprint = fingerprint  # last: weights that did not arrive are sent again by the next call
        return self._sync_gap

    def sample(
        self, requests: Sequence[Request], *, temperature: float, max_tokens: int, keep: bool = False
    ) -> list[Sample]:
        """See `scorl.engines.engine.Engine.sample`."""
        if not requests:
            return []  # nor are weights sent for nothing
        self.load_weights()
        server = self._awake_server()
        budgets = token_budgets(requests, max_tokens, self._max_positions)
        end_ids = sorted(self.chat.end_ids)

        def sample_one(request: Request, budget: int) -> Sample:
            if budget == 0:
                return Sample((), (), "length")
            parameters = {"temperature": temperature, "max_tokens": budget, "stop_token_ids": end_ids}
            if temperature:
                parameters["seed"] = request.seed
            return self._read_sample(_generate(server, request.prompt_ids, parameters))

        # One request a response, each in a thread that waits for it: vLLM batches what is under way by itself.
        threads = ThreadPoolExecutor(self.settings.batch_size)
        try:
            samples = list(threads.map(sample_one, requests, budgets))
        finally:
            threads.shutdown(cancel_futures=True)  # after a failure nothing more is asked
        if self.settings.enable_sleep_mode and not keep:
            server.post("/sleep?level=1")
            self._asleep = True
        return samples

    @property
    def _max_positions(self) -> int | None:
        return self.settings.max_model_len or self.model.max_positions

    def _read_sample(self, answer: dict[str, Any]) -> Sample:
        choice = answer["choices"][0]
        ids = tuple(choice["token_ids"])
        logprobs = tuple(token["logprob"] for token in choice["logprobs"]["content"])
        return Sample(ids, logprobs, "stop" if ids[-1] in self.chat.end_ids else "length")

    def _awake_server(self) -> Poster:
        """The server, started or woken where it has to be."""
        if self.server is None:
            self.server = start_server(self.model, self.settings)
            if isinstance(self.model, Policy):
                self.server.post("/init_weight_transfer_engine", {"init_info": {}})
        if self._asleep:
            self.server.post("/wake_up")
            self._asleep = False
        return self.server

    def _send_weights(self, server: Poster, policy: Policy) -> None:
        """Send all weights; what the server computed with others is forgotten."""
        with pack_weights(policy, self.settings, server.folder, mend=self.mend) as update:
            server.post("/start_weight_update")
            server.post("/update_weights", {"update_info": update})
            server.post("/finish_weight_update")
        server.post("/reset_prefix_cache")

    def _check_weights(self, server: Poster, policy: Policy) -> float:
        """How far the server is from the policy, on tokens that are the same in every check.

        The prompt is scored anew, since prompt log-probabilities bypass the prefix cache; the one token behind it goes
        through the cache. So both a layer that did not arrive and a cache that was not emptied show.
        """
        ids = probe_ids(policy, self._max_positions)
        greedy = {"temperature": 0.0, "max_tokens": 1}
        sampled = self._read_sample(_generate(server, ids, greedy))
        scored = _generate(server, ids, greedy | {"prompt_logprobs": 0})["prompt_logprobs"]
        prompt_logprobs = [logprobs[str(token)]["logprob"] for token, logprobs in zip(ids[1:], scored[1:], strict=True)]
        return check_sync(
            policy_logprobs(policy, (*ids, *sampled.ids)),
            [*prompt_logprobs, *sampled.logprobs],
            self.settings.max_sync_gap,
            policy.dtype,
        )


def _generate(server: Poster, prompt_ids: Sequence[int], parameters: dict[str, Any]) -> dict[str, Any]:
    """What vLLM answers to one request.

    Its own end tokens are ignored: what ends a response is the chat's to say, and is given as stop tokens.
    """
    parameters = {"logprobs": 0, "ignore_eos": True, "detokenize": False, **parameters}
    answer: dict[str, Any] = server.post(GENERATE, {"token_ids": list(prompt_ids), "sampling_params": parameters})
    return answer
