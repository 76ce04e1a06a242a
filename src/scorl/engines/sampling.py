"""Drawing words from log-probabilities, row by row: a row's draw knows nothing of the rows beside it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["draw", "uniforms"]

_BLOCK = 256
"""Words of a large vocabulary that are drawn from together."""


def draw(scores: Tensor, uniform: Tensor, temperature: float) -> Tensor:
    """Draw by inverting the cumulative distribution, in float64 so that large vocabularies lose nothing.

    A large vocabulary is cut into blocks: one is drawn by its sum, then a word in it, so that no pass in float64 goes
    over all words.
    """
    if temperature == 0:
        return scores.argmax(-1)
    if scores.shape[-1] <= _BLOCK * 4:
        return _inverted(scores.double().exp(), uniform)
    rows, words = scores.shape
    masses = scores.new_zeros(rows, -(-words // _BLOCK) * _BLOCK)
    torch.exp(scores, out=masses[:, :words])
    blocks = masses.view(rows, -1, _BLOCK)
    sums = blocks.sum(-1).double()
    block = _inverted(sums, uniform)
    ends = sums.cumsum(-1)
    rest = uniform * ends[:, -1] - (ends - sums).gather(1, block[:, None])[:, 0]
    inside = _inverted(
        blocks[torch.arange(rows, device=scores.device), block].double(),
        (rest / sums.gather(1, block[:, None])[:, 0]).clamp(0, 1),
    )
    return block * _BLOCK + inside


def _inverted(masses: Tensor, uniform: Tensor) -> Tensor:
    """The first place up to which lies the uniform share of the masses, [rows, places] -> [rows]."""
    cumulative = masses.cumsum(-1)
    below = cumulative < (uniform * cumulative[:, -1])[:, None]
    return below.sum(-1).clamp(max=masses.shape[-1] - 1)


def uniforms(seed: int, count: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """As many uniform numbers from a counter-based generator that the seed keys, [count]."""
    return np.random.Generator(np.random.Philox(key=seed)).random(count)
