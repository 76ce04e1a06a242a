"""Liger's kernels (https://github.com/linkedin/Liger-Kernel) for norms, rotary embeddings and gated MLPs."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal

from scorl.errors import UserError

if TYPE_CHECKING:
    import torch

    from scorl.model.policy import Policy

__all__ = ["choose_liger", "use_liger_kernel"]


def choose_liger(
    wanted: bool | Literal["auto"], device: torch.device, engine: str, model_type: Callable[[], str]
) -> bool:
    """What `learner.use_liger_kernel` means: `auto` is where vLLM samples, and Liger is there and has such layers.

    Where the policy itself is sampled from, launching these kernels from Python costs more than the learner gains.

    Args:
        wanted: the setting.
        device: that the model is on.
        engine: its name.
        model_type: tells which of transformers' models the decoder is; asked only where it matters.
    """
    if wanted != "auto":
        return wanted
    if device.type != "cuda" or engine != "vllm":
        return False
    try:
        patches = _load_patches()
    except Exception:  # not there, or broken, as beside a Triton that finds no driver: it is not needed
        return False
    return model_type() in patches


def use_liger_kernel(policy: Policy) -> None:
    """Exchange a model's norms, rotary embeddings and gated MLPs for Liger's, which sampling then uses too.

    Raises:
        UserError: they cannot work here.
    """
    if policy.device.type == "cpu":
        raise UserError("learner.use_liger_kernel: Liger's kernels run on GPUs alone; on a CPU set it to false")
    try:
        patches = _load_patches()
    except Exception as error:  # whatever the import runs into
        cause = f"{type(error).__name__}: {error}"
        raise UserError(f"learner.use_liger_kernel needs Liger (pip install 'scorl[liger]'): {cause}") from error
    kind = policy.decoder.config.model_type
    if (patch := patches.get(kind)) is None:
        raise UserError(f"learner.use_liger_kernel: Liger has none for models of the type {kind}; set it to false")
    # The head is this package's own (`scorl.learner.head`), and what Liger does about losses is not for it.
    losses = {name: False for name in inspect.signature(patch).parameters if "cross_entropy" in name}
    patch(model=policy.decoder, **losses)


def _load_patches() -> Mapping[str, Callable[..., None]]:
    """What exchanges the layers of a model, by the model's type."""
    monkey_patch = importlib.import_module("liger_kernel.transformers.monkey_patch")
    patches: Mapping[str, Callable[..., None]] = monkey_patch.MODEL_TYPE_TO_APPLY_LIGER_FN
    return patches
