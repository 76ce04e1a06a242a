"""vLLM writes the attempts: its server samples, the policy's weights are sent to it, and every transfer is checked.

The server is vLLM's own, in a process of its own, and may live in an environment of its own. It speaks in token ids and
keeps the keys and values of what it computed (its prefix cache), so a later turn computes only what is new.

On a GPU the weights stay there and the server opens them (vLLM's transfer `ipc`); on a CPU, or where several GPUs hold
the server's model, they cross in a file in shared memory (`inside/scorl_in_vllm.py`). Only the latter has been run.
"""

from __future__ import annotations

import base64
import copy
import json
import os
import pickle
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import save_file
from torch.multiprocessing.reductions import reduce_tensor

from scorl.engines.engine import Request, Sample, rooms
from scorl.engines.vllm.check import check_sync, learners, probe_ids
from scorl.engines.vllm.server import SOCKET, Server, environment
from scorl.policy import Policy
from scorl.settings import VllmSettings

__all__ = ["Poster", "VllmEngine"]

PROGRAM = Path(__file__).parent / "inside" / "scorl_in_vllm.py"
GENERATE = "/inference/v1/generate"
MEMORY = "/dev/shm"


class Poster(Protocol):
    """What is needed of a server."""

    folder: Path

    def post(self, path: str, body: Any = None) -> Any:
        """Post JSON, and return the JSON that is answered."""
        ...


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

        with ThreadPoolExecutor(self.batch_size) as threads:
            samples = list(threads.map(one, requests, room))
        if self.settings.sleep and not keep:
            server.post("/sleep?level=1")
            self._asleep = True
        return samples

    @property
    def _ends(self) -> list[int]:
        return sorted(self.policy.chat.end_ids)

    @property
    def _limit(self) -> int | None:
        return self.settings.context or self.policy.max_positions

    def _answered(self, server: Poster, prompt: Sequence[int], wanted: dict[str, Any]) -> Sample:
        answer = _generate(server, prompt, wanted)["choices"][0]
        ids = tuple(answer["token_ids"])
        logprobs = tuple(token["logprob"] for token in answer["logprobs"]["content"])
        return Sample(ids, logprobs, "stop" if ids[-1] in self.policy.chat.end_ids else "length")

    def _awake(self) -> Poster:
        """The server, started or woken where it has to be."""
        if self.server is None:
            self.server = self._started()
            self.server.post("/init_weight_transfer_engine", {"init_info": {}})
        if self._asleep:
            self.server.post("/wake_up")
            self._asleep = False
        return self.server

    def _started(self) -> Server:
        """A server with the policy's architecture and no weights yet."""
        folder = Path(tempfile.mkdtemp(prefix="scorl-vllm-", dir=MEMORY if Path(MEMORY).is_dir() else None))
        config = copy.deepcopy(self.policy.decoder.config)
        config.architectures = [type(self.policy.decoder).__name__]
        config.save_pretrained(folder)
        variables = environment(os.environ, own_python=self.settings.python is not None)
        if self.policy.device.index is not None:
            variables["CUDA_VISIBLE_DEVICES"] = _visible(self.policy.device.index, variables)
        return Server(self._command(folder), folder, self.settings.patience, variables)

    def _command(self, folder: Path) -> list[str]:
        options = {
            "model": folder,
            "uds": folder / SOCKET,
            "served-model-name": "policy",
            "dtype": str(self.policy.dtype).removeprefix("torch."),
            "load-format": "dummy",
            "generation-config": "vllm",  # none of the model's own top-p and top-k
            "logprobs-mode": "processed_logprobs",  # those of the distribution drawn from, temperature included
            "max-num-seqs": self.batch_size,
            "weight-transfer-config": json.dumps({"backend": "ipc" if self._by_ipc else "file"}),
            "worker-extension-cls": "scorl_in_vllm.Extension",
        }
        if self.settings.context is not None:
            options["max-model-len"] = self.settings.context
        flags = ["skip-tokenizer-init", "enable-prefix-caching", "enable-scale-out", "disable-uvicorn-access-log"]
        if self.policy.device.type == "cuda":
            options["gpu-memory-utilization"] = self.settings.gpu_memory
            options["tensor-parallel-size"] = self.settings.tensor_parallel
            flags += ["enable-sleep-mode"] if self.settings.sleep else []
        else:
            options["block-size"] = 32  # of 128 a prompt often fills none, and nothing would be kept
            flags.append("enforce-eager")
        given = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        return [self.settings.python or sys.executable, str(PROGRAM), *given, *(f"--{flag}" for flag in flags)]

    @property
    def _by_ipc(self) -> bool:
        return self.policy.device.type == "cuda" and self.settings.tensor_parallel == 1

    def _send(self, server: Poster) -> None:
        """Send all weights; what the server computed with others is forgotten."""
        weights = {name: weight.contiguous() for name, weight in self.policy.weights()}
        path = server.folder / "policy.safetensors"
        if self._by_ipc:
            update = _handles(weights)
        else:
            save_file({name: weight.cpu() for name, weight in weights.items()}, path)
            update = {"path": str(path), "mend": self.mend}
        server.post("/start_weight_update")
        server.post("/update_weights", {"update_info": update})
        server.post("/finish_weight_update")
        server.post("/reset_prefix_cache")
        path.unlink(missing_ok=True)

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


def _handles(weights: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Weights on a GPU as vLLM's transfer `ipc` takes them over HTTP; they must live until the update is finished."""
    device = str(torch.cuda.get_device_properties(next(iter(weights.values())).device).uuid)
    handles = [{device: reduce_tensor(weight)[1]} for weight in weights.values()]  # type: ignore[no-untyped-call]
    return {
        "names": list(weights),
        "dtype_names": [str(weight.dtype).removeprefix("torch.") for weight in weights.values()],
        "shapes": [list(weight.shape) for weight in weights.values()],
        "ipc_handles_pickled": base64.b64encode(pickle.dumps(handles)).decode(),
    }


def _visible(index: int, variables: dict[str, str]) -> str:
    """The one GPU that the server shares with the learner, as CUDA counts them for this process."""
    names = variables.get("CUDA_VISIBLE_DEVICES")
    return names.split(",")[index] if names else str(index)
