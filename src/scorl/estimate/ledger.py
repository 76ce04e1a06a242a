"""What runs on a device that there is not: operations, bytes and seconds, and memory by what it is for."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from scorl.estimate.device import Cost

__all__ = ["COPIES", "Ledger", "Phase"]

COPIES = "copies in half precision"
"""The label of what autocast makes of weights."""


@dataclass(eq=False)
class Phase:
    """A stretch of a run: what it cost, and when memory was taken and given back, by label."""

    live: Counter[str]
    """Bytes at its beginning."""
    cost: Cost = field(default_factory=Cost)
    events: list[tuple[str, int]] = field(default_factory=list)

    def peak(self, share: Mapping[str, float] | None = None) -> dict[str, float]:
        """Bytes by label at the height, where of a label only `share` lies on the device."""
        share = share or {}
        live = {label: share.get(label, 1.0) * size for label, size in self.live.items()}
        total = most = sum(live.values())
        height = dict(live)
        for label, size in self.events:
            step = share.get(label, 1.0) * size
            live[label] = live.get(label, 0.0) + step
            total += step
            if total > most:
                most, height = total, dict(live)
        return {label: size for label, size in height.items() if size}


class Ledger:
    """Counts operations, and follows the storages of tensors from when they are first seen until they are gone."""

    def __init__(self) -> None:
        self.live: Counter[str] = Counter()
        """Bytes by label."""
        self._label = "activations"
        self._labels: dict[int, str] = {}
        self._phases: list[Phase] = []

    @contextmanager
    def phase(self) -> Iterator[Phase]:
        """What runs within, by itself; phases may lie in one another."""
        phase = Phase(Counter(self.live))
        self._phases.append(phase)
        try:
            yield phase
        finally:
            self._phases.remove(phase)

    @contextmanager
    def label(self, name: str) -> Iterator[None]:
        """The label of tensors that are made within."""
        before, self._label = self._label, name
        try:
            yield
        finally:
            self._label = before

    def follow(self, func: Any, inputs: Sequence[Tensor], outputs: Sequence[Any]) -> None:
        """Count what an operation was given and made."""
        label = self._label_of(func, inputs)
        for tensor in (*inputs, *outputs):
            if isinstance(tensor, Tensor):
                self._follow(tensor, label)

    def add(self, cost: Cost) -> None:
        """Count an operation."""
        for phase in self._phases:
            phase.cost.add(cost)

    def _label_of(self, func: Any, inputs: Sequence[Tensor]) -> str:
        weight = inputs and self._labels.get(inputs[0].untyped_storage()._cdata) in ("weights", "reference")
        copied = weight and func is torch.ops.aten._to_copy.default and self._label not in ("weights", "reference")
        return COPIES if copied else self._label

    def _follow(self, tensor: Tensor, label: str) -> None:
        """Count a tensor's storage from now until it is gone."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._labels:
            return
        self._labels[key] = label
        self._record(label, size)

        def gone() -> None:
            del self._labels[key]
            self._record(label, -size)

        weakref.finalize(storage, gone)

    def _record(self, label: str, size: int) -> None:
        self.live[label] += size
        for phase in self._phases:
            phase.events.append((label, size))
