"""Liger's kernels (https://github.com/linkedin/Liger-Kernel) for norms, rotary embeddings and gated MLPs."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable

from scorl.errors import UserError
from scorl.model.policy import Policy

__all__ = ["use_liger_kernel"]


def use_liger_kernel(policy: Policy) -> None:
    """Exchange a model's norms, rotary embeddings and gated MLPs for Liger's, which sampling then uses too.

    Raises:
        UserError: they cannot work here.
    """
    if policy.device.type == "cpu":
        raise UserError("learner.use_liger_kernel: Liger's kernels run on GPUs alone; on a CPU set it to false")
    try:
        monkey_patch = importlib.import_module("liger_kernel.transformers.monkey_patch")
    except ImportError:
        raise UserError("learner.use_liger_kernel needs Liger: pip install 'scorl[liger]'") from None
    kind = policy.decoder.config.model_type
    patch: Callable[..., None] | None = monkey_patch.MODEL_TYPE_TO_APPLY_LIGER_FN.get(kind)
    if patch is None:
        raise UserError(f"learner.use_liger_kernel: Liger has none for models of the type {kind}; set it to false")
    # The head is this package's own (`scorl.learner.head`), and what Liger does about losses is not for it.
    losses = {name: False for name in inspect.signature(patch).parameters if "cross_entropy" in name}
    patch(model=policy.decoder, **losses)
