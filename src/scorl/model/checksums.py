"""Checksums of weights: exact, one pass over the memory, and equal if and only if (but for chance) the bits are."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

__all__ = ["checksums"]


def checksums(tensors: Iterable[Tensor]) -> Tensor:
    """The sum of each tensor's bits as whole numbers modulo 2^64, [tensors]; of a sharded tensor this rank's part.

    Whole numbers, because their sum does not depend on the order of adding, as a rounded one would: threads and
    alignment may change between two passes. Eight bytes at a time is as fast as torch sums floats.
    """
    sums = [_checksum(tensor.detach()) for tensor in tensors]
    return torch.stack(sums) if sums else torch.zeros(0, dtype=torch.int64)


def _checksum(tensor: Tensor) -> Tensor:
    part = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    flat = part.reshape(-1)
    if flat.storage_offset() * flat.element_size() % 8:
        flat = flat.clone()  # only aligned memory can be read eight bytes at a time
    whole = flat.numel() * flat.element_size() // 8 * 8 // flat.element_size()
    words, rest = flat[:whole].view(torch.int64), flat[whole:].view(torch.uint8)
    return words.sum() + rest.sum(dtype=torch.int64)
