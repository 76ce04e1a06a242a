"""The type that a model is computed in, where nobody says it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from scorl.settings import Dtype

if TYPE_CHECKING:
    import torch

__all__ = ["choose_dtype"]


def choose_dtype(wanted: Dtype | Literal["auto"], device: torch.device) -> Dtype:
    """What `model.dtype` means on a device: `auto` is bfloat16 on a GPU, whose tensor cores want it, else float32."""
    if wanted != "auto":
        return wanted
    return "bfloat16" if device.type == "cuda" else "float32"
