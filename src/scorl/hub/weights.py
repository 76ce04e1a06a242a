"""Saved weights in another type: file by file, never the whole model in memory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["INDEX", "cast_file", "cast_index", "find_dtypes", "name_dtype"]

INDEX = "model.safetensors.index.json"
NAMES = {"F64": "float64", "F32": "float32", "BF16": "bfloat16", "F16": "float16"}
"""Of floating-point types, as safetensors abbreviates them."""


def find_dtypes(file: Path) -> set[str]:
    """The floating-point types in a safetensors file, from its header alone."""
    from safetensors import safe_open

    with safe_open(file, "pt") as weights:
        kinds = {weights.get_slice(name).get_dtype() for name in weights.keys()}  # noqa: SIM118 - no mapping
    return {NAMES[kind] for kind in kinds if kind in NAMES}


def cast_file(file: Path, dtype: str, out: Path) -> Path:
    """Write a safetensors file with its floating-point tensors in another type; the new file."""
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    kind = getattr(torch, dtype)
    with safe_open(file, "pt") as weights:
        tensors = {name: weights.get_tensor(name) for name in weights.keys()}  # noqa: SIM118
        metadata = weights.metadata()
    tensors = {name: t.to(kind) if t.is_floating_point() else t for name, t in tensors.items()}
    save_file(tensors, out, metadata=metadata)
    return out


def cast_index(text: bytes, files: Mapping[str, Path]) -> bytes:
    """The index of weights in several files, with the size of those that they were cast to."""
    from safetensors import safe_open

    index = json.loads(text)
    total = 0
    for file in files.values():
        with safe_open(file, "pt") as weights:
            total += sum(weights.get_tensor(name).nbytes for name in weights.keys())  # noqa: SIM118
    index["metadata"] = {**(index.get("metadata") or {}), "total_size": total}
    return _to_bytes(index)


def name_dtype(text: bytes, dtype: str) -> bytes:
    """A config.json that says another type, of the parts of a model as well."""

    def rename(config: Any) -> Any:
        if not isinstance(config, dict):
            return config
        kinds = {key: dtype for key in ("dtype", "torch_dtype") if isinstance(config.get(key), str)}
        return {key: rename(value) for key, value in config.items()} | kinds

    return _to_bytes(rename(json.loads(text)))


def _to_bytes(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
