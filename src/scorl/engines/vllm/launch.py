"""How vLLM's server is started for a policy."""

from __future__ import annotations

import copy
import json
import os
import sys
import tempfile
from pathlib import Path

from scorl.engines.vllm.server import SOCKET, Server, environment
from scorl.engines.vllm.transfer import by_ipc
from scorl.model.policy import Policy
from scorl.settings import VllmSettings

__all__ = ["launched"]

PROGRAM = Path(__file__).parent / "inside" / "scorl_in_vllm.py"
MEMORY = "/dev/shm"


def launched(policy: Policy, settings: VllmSettings, batch_size: int) -> Server:
    """A server with the policy's architecture and no weights yet, in a folder in shared memory."""
    folder = Path(tempfile.mkdtemp(prefix="scorl-vllm-", dir=MEMORY if Path(MEMORY).is_dir() else None))
    config = copy.deepcopy(policy.decoder.config)
    config.architectures = [type(policy.decoder).__name__]
    config.save_pretrained(folder)
    variables = environment(os.environ, own_python=settings.python is not None)
    if policy.device.index is not None:
        variables["CUDA_VISIBLE_DEVICES"] = _visible(policy.device.index, variables)
    return Server(_command(policy, settings, batch_size, folder), folder, settings.timeout, variables)


def _command(policy: Policy, settings: VllmSettings, batch_size: int, folder: Path) -> list[str]:
    options: dict[str, object] = {
        "model": folder,
        "uds": folder / SOCKET,
        "served-model-name": "policy",
        "dtype": str(policy.dtype).removeprefix("torch."),
        "load-format": "dummy",
        "generation-config": "vllm",  # none of the model's own top-p and top-k
        "logprobs-mode": "processed_logprobs",  # those of the distribution drawn from, temperature included
        "max-num-seqs": batch_size,
        "weight-transfer-config": json.dumps({"backend": "ipc" if by_ipc(policy, settings) else "file"}),
        "worker-extension-cls": "scorl_in_vllm.Extension",
    }
    flags = ["skip-tokenizer-init", "enable-prefix-caching", "enable-scale-out", "disable-uvicorn-access-log"]
    if settings.max_model_len is not None:
        options["max-model-len"] = settings.max_model_len
    if policy.device.type == "cuda":
        options["gpu-memory-utilization"] = settings.gpu_memory_utilization
        options["tensor-parallel-size"] = settings.tensor_parallel_size
        flags += ["enable-sleep-mode"] if settings.enable_sleep_mode else []
    else:
        options["block-size"] = 32  # of 128, as on CPUs by default, a prompt often fills none: nothing would be kept
        flags.append("enforce-eager")
    given = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return [settings.python or sys.executable, str(PROGRAM), *given, *(f"--{flag}" for flag in flags)]


def _visible(index: int, variables: dict[str, str]) -> str:
    """The one GPU that the server shares with the learner, as CUDA counts them for this process."""
    names = variables.get("CUDA_VISIBLE_DEVICES")
    return names.split(",")[index] if names else str(index)
