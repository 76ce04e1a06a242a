"""How vLLM's server is started: for a policy whose weights it is sent, or for a model that it loads by itself."""

from __future__ import annotations

import copy
import json
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoConfig

from scorl.engines.vllm.server import SOCKET, Server, server_environment
from scorl.engines.vllm.transfer import uses_ipc
from scorl.model.chat import Chat
from scorl.model.dtype import choose_dtype
from scorl.model.loading import load_pretrained, resolve_model
from scorl.model.policy import Policy, resolve_device
from scorl.settings import ModelSettings, VllmSettings

__all__ = ["ServedModel", "start_server"]

PROGRAM = Path(__file__).parent / "inside" / "scorl_in_vllm.py"
SHARED_MEMORY = "/dev/shm"


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
        config = load_pretrained(AutoConfig, settings.path)
        device = resolve_device(settings.device)
        return cls(
            resolve_model(settings.path).path,
            Chat.load(settings.path, settings.chat_template),
            getattr(torch, choose_dtype(settings.dtype, device)),
            device,
            getattr(config, "max_position_embeddings", None),
        )


def start_server(model: Policy | ServedModel, settings: VllmSettings) -> Server:
    """A server that is ready; a policy's has its architecture and no weights yet.

    Its folder lies in shared memory, so that weights which cross in a file touch no disk.
    """
    shared = SHARED_MEMORY if Path(SHARED_MEMORY).is_dir() else None
    folder = Path(tempfile.mkdtemp(prefix="scorl-vllm-", dir=shared))
    if isinstance(model, Policy):
        config = copy.deepcopy(model.decoder.config)
        config.architectures = [type(model.decoder).__name__]
        config.save_pretrained(folder)
    variables = server_environment(os.environ, own_python=settings.python is not None)
    if model.device.index is not None:
        variables["CUDA_VISIBLE_DEVICES"] = _visible_gpu(model.device.index, variables)
    return Server(_command(model, settings, folder), folder, settings.timeout, variables)


def _command(model: Policy | ServedModel, settings: VllmSettings, folder: Path) -> list[str]:
    options: dict[str, object] = {
        "model": folder if isinstance(model, Policy) else model.path,
        "uds": folder / SOCKET,
        "served-model-name": "policy",
        "dtype": str(model.dtype).removeprefix("torch."),
        "generation-config": "vllm",  # none of the model's own top-p and top-k
        "logprobs-mode": "processed_logprobs",  # those of the distribution drawn from, temperature included
        "max-num-seqs": settings.batch_size,
    }
    flags = ["skip-tokenizer-init", "enable-prefix-caching", "enable-scale-out", "disable-uvicorn-access-log"]
    if isinstance(model, Policy):
        options["load-format"] = "dummy"
        options["weight-transfer-config"] = json.dumps({"backend": "ipc" if uses_ipc(model, settings) else "file"})
        options["worker-extension-cls"] = "scorl_in_vllm.Extension"
    if settings.max_model_len is not None:
        options["max-model-len"] = settings.max_model_len
    if model.device.type == "cuda":
        options["gpu-memory-utilization"] = settings.gpu_memory_utilization
        options["tensor-parallel-size"] = settings.tensor_parallel_size
        flags += ["enable-sleep-mode"] if settings.enable_sleep_mode else []
    else:
        options["block-size"] = 32  # of 128, as on CPUs by default, a prompt often fills none: nothing would be kept
        flags.append("enforce-eager")
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return [settings.python or sys.executable, str(PROGRAM), *words, *(f"--{flag}" for flag in flags)]


def _visible_gpu(index: int, variables: dict[str, str]) -> str:
    """The one GPU that the server shares with the learner, as CUDA counts them for this process."""
    names = variables.get("CUDA_VISIBLE_DEVICES")
    return names.split(",")[index] if names else str(index)
