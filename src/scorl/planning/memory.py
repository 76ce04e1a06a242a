"""How much memory one of the devices needs, part by part, while it samples and while it learns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from scorl.planning.setup import Setup
from scorl.planning.tokens import lesson, micro_batches, writings
from scorl.training.stage import Stage

__all__ = ["CHUNK_NUMBERS", "Memory", "memory"]

CHUNK_NUMBERS = 2**24
"""Logits that `scorl.learner.forward` holds at once."""
LOGITS = 7
"""Blocks as large as the logits, at the height of their backward pass: log-probabilities, probabilities and their
differences from the reference's, and the gradients of these."""
DRAW_BYTES = 36
"""For each logit of a drawn token: logits and log-probabilities in float32, three blocks in float64, a comparison."""
ROOM = 1.25
"""Columns of keys and values that are held, over those that are filled."""
PADDING = 1.1
"""Queries and keys that are gathered for a tree, padding included, over those that count (1.25 at most)."""


@dataclass(frozen=True)
class Memory:
    """Bytes by part: what is always there, and what each of the two phases adds."""

    always: Mapping[str, float]
    sample: Mapping[str, float]
    learn: Mapping[str, float]

    @property
    def at_sampling(self) -> float:
        """Bytes at the height of sampling."""
        return sum(self.always.values()) + sum(self.sample.values())

    @property
    def at_learning(self) -> float:
        """Bytes at the height of learning."""
        return sum(self.always.values()) + sum(self.learn.values())

    @property
    def peak(self) -> float:
        """The larger of both."""
        return max(self.at_sampling, self.at_learning)


def memory(setup: Setup) -> Memory:
    """What the most demanding stage needs.

    Weights that learn are in float32, and so is the reference's copy of them; frozen ones beside adapters are in
    the type that is computed in, and are the reference.
    """
    stages = setup.stages
    return Memory(
        always={
            "runtime": setup.device.runtime,
            "weights": _weights(setup) / setup.shards,
            "reference": 0.0 if setup.lora else 4 * setup.shape.parameters / setup.shards,
            "optimiser": 8 * setup.trained / setup.shards,
        },
        sample=max((_sampling(setup, stage) for stage in stages), key=_size),
        learn=max((_learning(setup, stage) for stage in stages), key=_size),
    )


def _size(parts: Mapping[str, float]) -> float:
    return sum(parts.values())


def _weights(setup: Setup) -> float:
    if setup.lora:
        return setup.size * setup.shape.parameters + 4 * setup.trained
    return 4 * setup.shape.parameters


def _sampling(setup: Setup, stage: Stage) -> dict[str, float]:
    """vLLM and sharded weights want a copy of all weights; autocast makes one of float32 weights in half precision."""
    calls, shape = writings(setup, stage), setup.shape
    if not calls:
        return {}
    copied = setup.engine == "vllm" or setup.shards > 1 or (setup.size == 2 and not setup.lora)
    own_pages = setup.engine == "vllm"
    held, before = [0.0], 0.0
    for writing in calls:
        flight = ROOM * min(writing.rows, setup.batch_size) * writing.context * shape.cache(setup.size)
        held.append(flight if own_pages else before + flight + writing.kept)
        before = writing.kept
    rows = min(setup.batch_size, max(writing.rows for writing in calls))
    return {
        "copy of the weights": setup.size * shape.parameters if copied else 0.0,
        "keys and values": max(held),
        "logits": DRAW_BYTES * rows * shape.vocabulary,
    }


def _learning(setup: Setup, stage: Stage) -> dict[str, float]:
    learned, shape = lesson(setup, stage), setup.shape
    tokens = max(learned.tokens / micro_batches(setup, learned), min(learned.longest, learned.tokens))
    share = tokens / learned.tokens
    logits = min(CHUNK_NUMBERS, share * learned.predictions * shape.vocabulary)
    half = setup.size == 2 and not setup.lora
    gathered = 2 * setup.size * shape.parameters / shape.layers if setup.shards > 1 else 0.0
    layer = tokens * _kept_by_layer(setup, learned.keys / learned.tokens, learned.computed_pairs / learned.tokens)
    kept = (
        layer + shape.layers * tokens * 4 * shape.width
        if setup.learner.gradient_checkpointing
        else shape.layers * layer
    )
    return {
        "gradients": 4 * setup.trained / setup.shards,
        "copy of the weights": gathered or (setup.size * shape.parameters if half else 0.0),
        "activations": kept + 3 * 4 * shape.width * tokens,
        "logits": 4 * (LOGITS if learned.anchored else LOGITS - 3) * logits,
    }


def _kept_by_layer(setup: Setup, keys: float, pairs: float) -> float:
    """Bytes that a layer keeps of one token for its backward pass.

    A norm keeps what comes in, and what goes out into the next matrices; where its weight learns, what it multiplies,
    too. Attention keeps its queries, its gathered keys and values, what it gives and that put back in order, and a mask
    in numbers for each head of a group. The gated half keeps four numbers for each of its inner width. Norms compute in
    float32.
    """
    shape, size = setup.shape, setup.size
    norms = shape.norms * shape.width * (4 + size + (0 if setup.lora else 4))
    attention = (2 * PADDING + 1) * shape.query_width + 2 * PADDING * keys * shape.key_width
    mask = pairs * PADDING * shape.heads / shape.groups
    adapters = len(shape.linears) * setup.lora.r if setup.lora else 0
    return norms + size * (attention + mask + 4 * shape.inner + adapters)
