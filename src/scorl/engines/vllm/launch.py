"""How vLLM's server is started: for a policy whose weights it is sent, or for a model that it loads by itself."""

from __future__ import annotations

import copy
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from scorl.engines.vllm.client import OwnServer, Poster
from scorl.engines.vllm.nccl import NcclSender
from scorl.engines.vllm.server import SOCKET, Server, server_environment
from scorl.engines.vllm.transfer import (
    SHARED_MEMORY,
    AdapterSender,
    FileSender,
    IpcSender,
    WeightSender,
    choose_way,
)
from scorl.errors import UserError
from scorl.model.chat import Chat
from scorl.model.context import max_positions
from scorl.model.dtype import choose_dtype
from scorl.model.loading import count_parameters, load_config, resolve_model
from scorl.model.policy import Policy, resolve_device
from scorl.settings import ModelSettings, VllmSettings

__all__ = ["ServedModel", "open_sender", "start_server"]

PROGRAM = Path(__file__).parent / "inside" / "scorl_in_vllm.py"
MAX_LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks that vLLM makes room for."""


@dataclass(frozen=True, eq=False)
class ServedModel:
    """A model whose weights the server loads by itself and this process never does: what is evaluated, not trained."""

    path: str
    """A folder, or a name on the hub."""
    chat: Chat
    dtype: torch.dtype
    device: torch.device
    max_positions: int | None
    """The longest context in tokens, where the model names one."""

    @classmethod
    def of(cls, settings: ModelSettings) -> ServedModel:
        """The model that a recipe's `model` section describes, without adapters.

        Raises:
            UserError: there is no such model, or it cannot be read.
        """
        device = resolve_device(settings.device)
        return cls(
            resolve_model(settings.path).path,
            Chat.of_model(settings),
            getattr(torch, choose_dtype(settings.dtype, device, partial(count_parameters, settings.path))),
            device,
            max_positions(load_config(settings.path)),
        )


def start_server(model: Policy | ServedModel, settings: VllmSettings) -> Poster:
    """A server that is ready: the user's own, or one in a process of its own.

    One that is sent all weights has its policy's architecture and none of them yet. Its folder lies in shared memory:
    the path of a socket must be short.

    Raises:
        UserError: there is no server at `engine.url`, or too few GPUs are here.
        GuardError: the server did not start.
    """
    if settings.url is not None:
        return OwnServer(settings.url, settings.timeout)
    shared = SHARED_MEMORY if Path(SHARED_MEMORY).is_dir() else None
    folder = Path(tempfile.mkdtemp(prefix="scorl-vllm-", dir=shared))
    if isinstance(model, Policy):
        config = copy.deepcopy(model.decoder.config)
        config.architectures = [type(model.decoder).__name__]
        config.save_pretrained(folder)
    variables = server_environment(os.environ, own_python=settings.python is not None)
    if model.device.type == "cuda":
        variables["CUDA_VISIBLE_DEVICES"] = _visible_gpus(model.device.index, settings, variables)
    return Server(_command(model, settings, folder), folder, settings.timeout, variables)


def open_sender(server: Poster, policy: Policy, settings: VllmSettings) -> WeightSender:
    """What brings a policy's weights to a server that was started by these settings."""
    match choose_way(policy, settings):
        case "nccl":
            return NcclSender(server, policy, settings.url)
        case "ipc":
            return IpcSender(server, policy)
        case "file":
            return FileSender(server, policy)
        case "adapters":
            return AdapterSender(server, policy)


def _command(model: Policy | ServedModel, settings: VllmSettings, folder: Path) -> list[str]:
    options: dict[str, object] = {
        "model": folder,
        "uds": folder / SOCKET,
        "served-model-name": "policy",
        "dtype": str(model.dtype).removeprefix("torch."),
        "generation-config": "vllm",  # none of the model's own top-p and top-k
        "logprobs-mode": "processed_logprobs",  # those of the distribution drawn from, temperature included
        "max-num-seqs": settings.batch_size,
        **_weight_options(model, settings),
    }
    flags = ["enable-prefix-caching", "enable-scale-out", "disable-uvicorn-access-log"]
    if model.chat.stop_strings:  # which it looks for in the text
        model.chat.tokenizer.save_pretrained(folder)
        options["tokenizer"] = folder
    else:
        flags += ["skip-tokenizer-init"]
    flags += ["enable-lora"] if "max-lora-rank" in options else []
    if settings.max_model_len is not None:
        options["max-model-len"] = settings.max_model_len
    if model.device.type == "cuda":
        options["gpu-memory-utilization"] = settings.gpu_memory_utilization
        options["tensor-parallel-size"] = settings.tensor_parallel_size
        flags += ["enable-sleep-mode"] if settings.enable_sleep_mode else []
    else:
        options["block-size"] = 32  # of 128, as on CPUs by default, a prompt often fills none: nothing would be kept
        # Of a prompt in chunks vLLM takes a draw back by its generator's offset, which torch's have on GPUs alone.
        flags += ["enforce-eager", "no-enable-chunked-prefill"]
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return [settings.python or sys.executable, str(PROGRAM), *words, *(f"--{flag}" for flag in flags)]


def _weight_options(model: Policy | ServedModel, settings: VllmSettings) -> dict[str, object]:
    """Where the server's weights come from."""
    if isinstance(model, ServedModel):
        return {"model": model.path}
    way = choose_way(model, settings)
    if way != "adapters":
        return {
            "load-format": "dummy",
            "weight-transfer-config": json.dumps({"backend": way}),
            "worker-extension-cls": "scorl_in_vllm.Extension",
        }
    rank = model.lora.r if model.lora else 0
    if rank > MAX_LORA_RANKS[-1]:
        raise UserError(
            f"model.lora.r: vLLM takes adapters up to rank {MAX_LORA_RANKS[-1]}, not {rank}; set engine.merge_adapters"
        )
    return {
        "model": resolve_model(model.path).path,
        "max-lora-rank": next(allowed for allowed in MAX_LORA_RANKS if rank <= allowed),
        "max-loras": 1,
    }


def _visible_gpus(first: int, settings: VllmSettings, variables: Mapping[str, str]) -> str:
    """The GPUs that the server sees: its own, or the learner's and those behind it, as CUDA counts them for this
    process.
    """
    count, visible = settings.tensor_parallel_size, variables.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(index) for index in range(torch.cuda.device_count())]
    gpus = tuple(range(first, first + count)) if settings.gpus is None else settings.gpus
    if len(gpus) != count:
        raise UserError(f"engine.gpus: {len(gpus)} GPUs, but engine.tensor_parallel_size is {count}")
    if settings.gpus is not None and first in gpus:
        raise UserError(f"engine.gpus: cuda:{first} is the learner's own; name others, or null to share it")
    if max(gpus) >= len(names):
        key = "tensor_parallel_size" if settings.gpus is None else "gpus"
        raise UserError(f"engine.{key}: the server needs cuda:{max(gpus)}, but this process sees {len(names)} GPUs")
    return ",".join(names[index] for index in gpus)
