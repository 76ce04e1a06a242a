"""The operations and bytes of a step: what has to be computed, whatever computes it.

A token's pass forward through a matrix takes 2 operations for each of its numbers; backward takes 4, half of them for
the gradient of the matrix itself, which frozen weights do without. Attention takes 4 operations forward, for each pair
of tokens and number of the queries, and 8 backward.

Bytes are what element-wise operations read and write, one operation after the other, as PyTorch does it eagerly; the
counts of passes below are those of transformers' Llama, of `scorl.learner` and of `scorl.engines`.
"""

from __future__ import annotations

from dataclasses import dataclass

from scorl.planning.device import Rates
from scorl.planning.setup import Setup
from scorl.planning.shape import ModelShape
from scorl.planning.tokens import Lesson, Writing

__all__ = ["Work", "forward_flops", "learning", "passes", "sampling", "update_flops"]


@dataclass(frozen=True)
class Work:
    """One kind of operation; it takes as long as its operations or its bytes, whichever is longer."""

    name: str
    flops: float = 0.0
    bytes: float = 0.0
    attended: float = 0.0
    """Operations of attention."""
    few: bool = False
    """Whether it meets the few rows of a decoded step."""

    def seconds(self, rates: Rates) -> float:
        """Seconds on a device of such rates."""
        reach = rates.few if self.few else rates.many
        return max(self.flops / reach.flops + self.attended / reach.attention, self.bytes / reach.bandwidth)


NORM, RESIDUAL, ROTARY, GATE, ATTEND, GATHER, ADAPTED = 7, 3, 11, 5, 4, 10, 6
"""Numbers read and written, for each number of: a norm, a residual sum, rotated queries and keys, the gate's inner
width, attention's queries, what a tree gathers of them, an adapted matrix's output."""
DRAW = 24
"""The same for each logit of a drawn token: log-softmax, then the cumulative sum in float64."""
SCORE, ANCHOR = 19, 30
"""The same for each logit of a prediction, both passes: log-probabilities; the reference's and the exact KL."""
HEAT = 6
"""More of them where logits are divided by a temperature."""
OPTIMISER = 10
"""The same for each number that learns: norm and clipping of the gradient, then Adam."""


def update_flops(
    shape: ModelShape,
    tokens: float,
    predictions: float,
    pairs: float,
    adapters: int | None = None,
    anchored: bool = True,
) -> float:
    """The useful operations of one update: each distinct token once, nothing computed again.

    Args:
        shape: of the model.
        tokens: distinct ones.
        predictions: whose logits are wanted.
        pairs: of a token and one that it attends to, itself included.
        adapters: numbers in them; None: all weights learn.
        anchored: whether the reference computes too.
    """
    once = forward_flops(shape, tokens, predictions, pairs)
    policy = 3 * once
    if adapters is not None:
        policy -= forward_flops(shape, tokens, predictions, 0) - 6 * adapters * tokens
    return policy + (once if anchored else 0.0)


def forward_flops(shape: ModelShape, tokens: float, predictions: float, pairs: float) -> float:
    """Those of one pass forward, as `update_flops` counts them; all that sampling has to compute."""
    return sum(_pass_flops(shape, tokens, predictions, pairs))


def learning(setup: Setup, lesson: Lesson) -> list[Work]:
    """What the learner of one device does in a step."""
    shape, tokens, predictions = setup.shape, lesson.tokens, lesson.predictions
    layers, again = shape.layers, 1 if setup.learner.gradient_checkpointing else 0
    body, head, attention = _pass_flops(shape, tokens, predictions, lesson.computed_pairs)
    frozen = 1 if setup.lora else 0
    adapters = setup.trained * tokens if setup.lora else 0
    anchor = 1 if lesson.anchored else 0
    times = 3 + again + anchor
    gathered = GATHER * shape.query_width * tokens + 4 * shape.key_width * lesson.keys
    scored = SCORE + (ANCHOR * anchor) + (HEAT if setup.temperature != 1 else 0)
    return [
        Work("matrices", (times - frozen) * body + (6 + 2 * again) * adapters),
        Work("attention", attended=times * attention),
        Work("layers", bytes=setup.size * times * (_layer(setup) * layers * tokens + layers * gathered)),
        Work("head", (3 - frozen + anchor) * head),
        Work("log-probabilities", bytes=4 * scored * shape.vocabulary * predictions),
        Work("optimiser", bytes=4 * OPTIMISER * setup.trained / setup.shards),
    ]


def sampling(setup: Setup, writing: Writing) -> list[Work]:
    """What the engine of one device does in one call."""
    shape, size = setup.shape, setup.size
    adapters = setup.trained if setup.lora else 0
    numbers, weights = shape.body + shape.head + adapters, size * (shape.body + shape.head)
    columns = writing.context - writing.steps / 2
    looked = writing.drawn * columns
    handed = 4 * writing.kept + 2 * writing.rows * writing.context * shape.cache(size)
    attended = 4 * shape.layers * shape.query_width
    eager = 0 if setup.engine == "vllm" else 1
    return [
        Work("prompts", 2 * (shape.body + adapters) * writing.prefilled, attended=attended * writing.pairs),
        Work("prompts' layers", bytes=eager * size * _layer(setup) * shape.layers * writing.prefilled),
        Work("decoding", 2 * numbers * writing.drawn, weights * writing.steps, few=True),
        Work("decoding's layers", bytes=eager * size * _layer(setup) * shape.layers * writing.drawn, few=True),
        Work("attention", bytes=shape.cache(size) * looked, attended=attended * looked, few=True),
        Work("handing on", bytes=eager * handed),
        Work("drawing", bytes=4 * DRAW * shape.vocabulary * writing.drawn, few=True),
    ]


def _pass_flops(shape: ModelShape, tokens: float, predictions: float, pairs: float) -> tuple[float, float, float]:
    """Operations of one pass forward: the layers' matrices, the head, attention."""
    return (
        2 * shape.body * tokens,
        2 * shape.head * predictions,
        4 * shape.layers * shape.query_width * pairs,
    )


def _layer(setup: Setup) -> float:
    """Numbers that element-wise operations of one layer read and write for a token, forward."""
    adapted = ADAPTED * sum(out for _, out in setup.shape.linears.values()) if setup.lora else 0
    return passes(setup.shape) + ATTEND * setup.shape.query_width + adapted


def passes(shape: ModelShape) -> float:
    """The part of it that norms, residual sums, rotation and gate have."""
    rotated = shape.query_width + shape.key_width
    return (shape.norms * NORM + 2 * RESIDUAL) * shape.width + ROTARY * rotated + GATE * shape.inner
