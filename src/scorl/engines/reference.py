"""An engine that samples from the reference policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scorl.engines.engine import Arithmetic, Dialogue, Engine, Request, Sample
from scorl.model.reference import Reference

__all__ = ["ReferenceEngine"]


@dataclass(frozen=True)
class ReferenceEngine:
    """The policy's engine, writing as the reference policy."""

    engine: Engine
    reference: Reference

    @property
    def chat(self) -> Dialogue:
        """The chat of the engine."""
        return self.engine.chat

    @property
    def arithmetic(self) -> Arithmetic:
        """That of the engine."""
        return self.engine.arithmetic

    @property
    def batch_size(self) -> int:
        """The engine's."""
        return self.engine.batch_size

    def sample(
        self, requests: Sequence[Request], *, temperature: float, max_tokens: int, keep: bool = False
    ) -> list[Sample]:
        """See `scorl.engines.engine.Engine.sample`; nothing is kept, for the next turn is the policy's."""
        with self.reference.in_place():
            return self.engine.sample(requests, temperature=temperature, max_tokens=max_tokens)
