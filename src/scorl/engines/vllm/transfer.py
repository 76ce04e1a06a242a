"""How a policy's weights cross into vLLM's server.

On a GPU that both share they stay where they are, and the server opens them (vLLM's backend `ipc`; not run). On a CPU,
or where several GPUs hold the server's model, they cross in a file in shared memory, of which each of the server's
workers takes its part (the backend `file` of `inside/scorl_in_vllm.py`).
"""

from __future__ import annotations

import base64
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.multiprocessing.reductions import reduce_tensor

from scorl.model.policy import Policy
from scorl.settings import VllmSettings

__all__ = ["pack_weights", "uses_ipc"]


def uses_ipc(policy: Policy, settings: VllmSettings) -> bool:
    """Whether the weights stay on the GPU."""
    return policy.device.type == "cuda" and settings.tensor_parallel_size == 1


@contextmanager
def pack_weights(policy: Policy, settings: VllmSettings, folder: Path, *, mend: bool) -> Iterator[dict[str, Any]]:
    """The body of `/update_weights`; the weights can be taken as long as the context is open.

    Args:
        policy: whose weights, adapters merged.
        settings: by which the server was started.
        folder: for the file.
        mend: process a tied head once the weights are loaded.
    """
    weights = {name: weight.contiguous() for name, weight in policy.weights()}
    if uses_ipc(policy, settings):
        yield _ipc_handles(weights)
        return
    path = folder / "policy.safetensors"
    save_file({name: weight.cpu() for name, weight in weights.items()}, path)
    try:
        yield {"path": str(path), "mend": mend}
    finally:
        path.unlink(missing_ok=True)


def _ipc_handles(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Weights on a GPU as the backend `ipc` takes them over HTTP."""
    device = str(torch.cuda.get_device_properties(next(iter(weights.values())).device).uuid)
    handles = [{device: reduce_tensor(weight)[1]} for weight in weights.values()]  # type: ignore[no-untyped-call]
    return {
        "names": list(weights),
        "dtype_names": [str(weight.dtype).removeprefix("torch.") for weight in weights.values()],
        "shapes": [list(weight.shape) for weight in weights.values()],
        "ipc_handles_pickled": base64.b64encode(pickle.dumps(handles)).decode(),
    }
