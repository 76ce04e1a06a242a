"""vLLM writes the attempts: its server samples, the policy's weights are sent to it, and every transfer is checked.

The server is vLLM's own, in a process of its own, and may live in an environment of its own. It speaks in token ids and
keeps the keys and values of what it computed (its prefix cache), so a later turn computes only what is new.

Where it shares a GPU with the learner, memory is handed over: the learner's unused blocks are freed, the server's room
for weights is woken and filled, the learner's gathered weights are let go (by the caller), and only then is the room
for keys and values woken; asleep the server holds neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Literal

import torch

from scorl.engines.engine import Arithmetic, Request, Sample, token_budgets
from scorl.engines.vllm.check import Probe
from scorl.engines.vllm.client import Poster
from scorl.engines.vllm.launch import ServedModel, open_sender, start_server
from scorl.engines.vllm.transfer import WeightSender
from scorl.errors import GuardError
from scorl.model.chat import Chat
from scorl.model.policy import Policy
from scorl.settings import VllmSettings
from scorl.threads import run_jobs

__all__ = ["VllmEngine"]

GENERATE = "/inference/v1/generate"
"""vLLM's route that takes and gives token ids."""

Part = Literal["weights", "kv_cache"]
"""What of the server's memory sleeps and wakes by itself, as vLLM tags it."""


@dataclass(eq=False)
class VllmEngine:
    """Samples with vLLM, whose server starts with the first call.

    Args:
        model: a policy, whose weights are sent whenever they have changed since the last call; or a model that the
            server loads by itself, to evaluate it.
        settings: of the server and of the check.
        server: one that runs already.
    """

    model: Policy | ServedModel
    settings: VllmSettings = field(default_factory=VllmSettings)
    server: Poster | None = None
    sender: WeightSender | None = field(default=None, init=False)
    """Brings the policy's weights to the server; there as soon as the server is."""
    arithmetic: ClassVar[Arithmetic] = "other"
    _fingerprint: tuple[float, ...] = field(default=(), init=False, repr=False)
    """Of the weights that the server has."""
    _served: str | None = field(default=None, init=False, repr=False)
    """The name under which the server knows the model; None: it knows one."""
    _probe: Probe | None = field(default=None, init=False, repr=False)
    """What the weights that were sent last are still to be checked by."""
    _sync_gap: float | None = field(default=None, init=False, repr=False)
    _asleep: set[Part] = field(default_factory=set, init=False, repr=False)

    @property
    def chat(self) -> Chat:
        """The chat of the model."""
        return self.model.chat

    @property
    def batch_size(self) -> int:
        """See `scorl.engines.engine.Engine.batch_size`."""
        return self.settings.batch_size

    def load_weights(self) -> None:
        """See `scorl.engines.engine.OwnWeights`; what the server computed with other weights is forgotten."""
        if not isinstance(self.model, Policy) or self._fingerprint == (fingerprint := self.model.fingerprint()):
            return
        if self.model.device.type == "cuda":
            torch.cuda.empty_cache()  # the learner's peak, which its allocator keeps, is what the server needs
        server = self._running_server()
        self._wake("weights")
        if self.sender is None:
            self.sender = open_sender(server, self.model, self.settings)
        self._served = self.sender.send()
        server.post("/reset_prefix_cache")
        self._probe = Probe.of(self.model, self._max_positions)
        self._fingerprint = fingerprint

    def check_weights(self) -> float | None:
        """See `scorl.engines.engine.OwnWeights`."""
        if self._probe is not None:
            probe, fingerprint = self._probe, self._fingerprint
            self._probe, self._fingerprint = None, ()
            self._sync_gap = self._compare(probe)
            self._fingerprint = fingerprint  # last: weights that did not arrive are sent again by the next call
        return self._sync_gap

    def sleep(self) -> None:
        """See `scorl.engines.engine.OwnWeights`; by vLLM's sleep mode, at level 2 where all weights come anew."""
        if not self.settings.enable_sleep_mode or self.server is None or self._asleep:
            return
        forgets = self.sender is not None and self.sender.sends_all
        self.server.post(f"/sleep?level={2 if forgets else 1}")
        self._asleep = {"weights", "kv_cache"}
        self._fingerprint = () if forgets else self._fingerprint

    def sample(
        self, requests: Sequence[Request], *, temperature: float, max_tokens: int, keep: bool = False
    ) -> list[Sample]:
        """See `scorl.engines.engine.Engine.sample`."""
        if not requests:
            return []  # nor are weights sent for nothing
        self._renew_weights()
        budgets = token_budgets(requests, max_tokens, self._max_positions)
        end_ids = sorted(self.chat.end_ids)

        samples = [Sample((), (), "length")] * len(requests)

        def sample_one(place: int) -> None:
            request, budget = requests[place], budgets[place]
            if budget == 0:
                return
            parameters: dict[str, Any] = {"temperature": temperature, "max_tokens": budget, "stop_token_ids": end_ids}
            if self.chat.stop_strings:
                parameters |= {"stop": list(self.chat.stop_strings), "detokenize": True}
            if temperature:
                parameters["seed"] = request.seed
            samples[place] = self._read_sample(self._generate(request.prompt_ids, parameters))

        self._running_server()
        self._wake("weights")
        self._wake("kv_cache")
        # One request a response, each in a thread that waits for it: vLLM batches what is under way by itself.
        jobs = [partial(sample_one, place) for place in range(len(requests))]
        run_jobs(jobs, min(len(jobs), self.settings.batch_size))
        return samples

    @property
    def _max_positions(self) -> int | None:
        return self.settings.max_model_len or self.model.max_positions

    def _renew_weights(self) -> None:
        """Send weights that have changed; weights in shards must have been sent while they were whole."""
        if not isinstance(self.model, Policy) or not self.model.is_sharded:
            self.load_weights()
        elif self._fingerprint == ():
            raise GuardError("the policy is in shards, and its weights were not sent to vLLM while they were gathered")
        self.check_weights()

    def _running_server(self) -> Poster:
        """The server, started where it has to be."""
        if self.server is None:
            self.server = start_server(self.model, self.settings)
        return self.server

    def _wake(self, part: Part) -> None:
        """Give a part of the server its memory back, where it sleeps."""
        if part in self._asleep and self.server is not None:
            self.server.post(f"/wake_up?tags={part}")
            self._asleep.remove(part)

    def _compare(self, probe: Probe) -> float:
        """How far the server is from the policy; prompt log-probabilities bypass the prefix cache, and fill it."""
        self._wake("kv_cache")
        greedy = {"temperature": 0.0, "max_tokens": 1}
        scored = self._generate(probe.ids, greedy | {"prompt_logprobs": 0})["prompt_logprobs"]
        logprobs = [given[str(token)]["logprob"] for token, given in zip(probe.ids[1:], scored[1:], strict=True)]
        drawn = [self._read_sample(self._generate(prefix, greedy)) for prefix in probe.prefixes]
        return probe.compare(logprobs, [(s.ids[0], s.logprobs[0]) for s in drawn], self.settings.max_sync_gap)

    def _generate(self, prompt_ids: Sequence[int], parameters: dict[str, Any]) -> dict[str, Any]:
        """What vLLM answers to one request.

        Its own end tokens are ignored: what ends a response is the chat's to say, and is given as stop tokens.
        """
        parameters = {"logprobs": 0, "ignore_eos": True, "detokenize": False, **parameters}
        body: dict[str, Any] = {"token_ids": list(prompt_ids), "sampling_params": parameters}
        body |= {"model": self._served} if self._served else {}
        answer: dict[str, Any] = self._running_server().post(GENERATE, body)
        return answer

    def _read_sample(self, answer: dict[str, Any]) -> Sample:
        choice = answer["choices"][0]
        ids = tuple(choice["token_ids"])
        logprobs = tuple(token["logprob"] for token in choice["logprobs"]["content"])
        end = self.chat.find_end(ids)  # a server without the tokenizer goes on behind a stop string
        return Sample(ids[:end], logprobs[:end], "length" if end is None else "stop")
