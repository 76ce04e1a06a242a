"""vLLM writes the attempts: its server samples, the policy's weights are sent to it, and every transfer is checked.

The server is vLLM's own, in a process of its own, and may live in an environment of its own. It speaks in token ids and
keeps the keys and values of what it computed (its prefix cache), so a later turn computes only what is new.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from scorl.engines.engine import Request, Sample, rooms
from scorl.engines.vllm.check import check_sync, learners, probe_ids
from scorl.engines.vllm.launch import launched
from scorl.engines.vllm.server import Poster
from scorl.engines.vllm.transfer import packed
from scorl.model.chat import Chat
from scorl.model.policy import Policy
from scorl.settings import VllmSettings

__all__ = ["VllmEngine"]

GENERATE = "/inference/v1/generate"


@dataclass(eq=False)
class VllmEngine:
    """Samples with vLLM, whose server starts with the first call.

    Args:
        policy: its weights are sent whenever they have changed since the last call.
        settings: of the server and of the check.
        batch_size: most rows decoded at once.
        mend: process a tied head after a transfer; tests switch it off to see that the check finds what follows.
    """

    policy: Policy
    settings: VllmSettings = field(default_factory=VllmSettings)
    batch_size: int = 256
    mend: bool = True
    server: Poster | None = None
    _weights: tuple[float, ...] = field(default=(), init=False, repr=False)
    """The fingerprint of the weights that the server has."""
    _gap: float | None = field(default=None, init=False, repr=False)
    _asleep: bool = field(default=False, init=False, repr=False)

    @property
    def chat(self) -> Chat:
        """The chat of the policy."""
        return self.policy.chat

    def load(self) -> float | None:
        """See `scorl.engines.engine.Engine.load`.

        Raises:
            GuardError: the server samples from another policy than the one that was sent, or is dead.
        """
        weights = self.policy.fingerprint()
        if weights != self._weights:
            server = self._awake()
            self._send(server)
            self._gap = self._check(server)
            self._weights = weights
        return self._gap

    def sample(
        self, requests: Sequence[Request], *, temperature: float, max_tokens: int, keep: bool = False
    ) -> list[Sample]:
        """See `scorl.engines.engine.Engine.sample`."""
        if not requests:
            return []  # nor are weights sent for nothing
        self.load()
        server = self._awake()
        room = rooms(requests, max_tokens, self._limit)

        def one(request: Request, tokens: int) -> Sample:
            if tokens == 0:
                return Sample((), (), "length")
            wanted = {"temperature": temperature, "max_tokens": tokens, "stop_token_ids": self._ends}
            return self._answered(server, request.prompt_ids, wanted | ({"seed": request.seed} if temperature else {}))

        threads = ThreadPoolExecutor(self.batch_size)
        try:
            samples = list(threads.map(one, requests, room))
        finally:
            threads.shutdown(cancel_futures=True)  # after a failure nothing more is asked
        if self.settings.enable_sleep_mode and not keep:
            server.post("/sleep?level=1")
            self._asleep = True
        return samples

    @property
    def _ends(self) -> list[int]:
        return sorted(self.policy.chat.end_ids)

    @property
    def _limit(self) -> int | None:
        return self.settings.max_model_len or self.policy.max_positions

    def _answered(self, server: Poster, prompt: Sequence[int], wanted: dict[str, Any]) -> Sample:
        answer = _generate(server, prompt, wanted)["choices"][0]
        ids = tuple(answer["token_ids"])
        logprobs = tuple(token["logprob"] for token in answer["logprobs"]["content"])
        return Sample(ids, logprobs, "stop" if ids[-1] in self.policy.chat.end_ids else "length")

    def _awake(self) -> Poster:
        """The server, started or woken where it has to be."""
        if self.server is None:
            self.server = launched(self.policy, self.settings, self.batch_size)
            self.server.post("/init_weight_transfer_engine", {"init_info": {}})
        if self._asleep:
            self.server.post("/wake_up")
            self._asleep = False
        return self.server

    def _send(self, server: Poster) -> None:
        """Send all weights; what the server computed with others is forgotten."""
        with packed(self.policy, self.settings, server.folder, mend=self.mend) as update:
            server.post("/start_weight_update")
            server.post("/update_weights", {"update_info": update})
            server.post("/finish_weight_update")
        server.post("/reset_prefix_cache")

    def _check(self, server: Poster) -> float:
        """How far the server is from the policy, on tokens that are the same in every check."""
        ids = probe_ids(self.policy, self._limit)
        cached = self._answered(server, ids, {"temperature": 0.0, "max_tokens": 1})
        prompt = _generate(server, ids, {"temperature": 0.0, "max_tokens": 1, "prompt_logprobs": 0})["prompt_logprobs"]
        theirs = [logprobs[str(token)]["logprob"] for token, logprobs in zip(ids[1:], prompt[1:], strict=True)]
        ours = learners(self.policy, (*ids, *cached.ids))
        return check_sync(ours, [*theirs, *cached.logprobs], self.settings.max_sync_gap, self.policy.dtype)


def _generate(server: Poster, prompt: Sequence[int], wanted: dict[str, Any]) -> dict[str, Any]:
    """One response, by vLLM's route that takes and gives token ids."""
    parameters = {"logprobs": 0, "ignore_eos": True, "detokenize": False, **wanted}
    answer: dict[str, Any] = server.post(GENERATE, {"token_ids": list(prompt), "sampling_params": parameters})
    return answer
