"""Drawing tokens from log-probabilities, row by row: a row's draw does not depend on the rows beside it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["sample_tokens", "uniform_numbers"]

_BLOCK = 256
"""Tokens of a large vocabulary that are drawn from together."""


def sample_tokens(logprobs: Tensor, uniform: Tensor, temperature: float) -> Tensor:
    """Draw by inverting the cumulative distribution, in float64 so that large vocabularies lose nothing.

    A large vocabulary is cut into blocks: one is drawn by its sum, then a token in it, so that no pass in float64 goes
    over all tokens.

    Args:
        logprobs: [rows, vocabulary].
        uniform: a number from [0, 1) for each row, [rows], float64.
        temperature: 0 takes the likeliest; any other is in the log-probabilities already.

    Returns:
        [rows].
    """
    if temperature == 0:
        return logprobs.argmax(-1)
    if logprobs.shape[-1] <= _BLOCK * 4:
        return _invert_cdf(logprobs.double().exp(), uniform)
    rows, vocabulary = logprobs.shape
    masses = logprobs.new_zeros(rows, -(-vocabulary // _BLOCK) * _BLOCK)
    torch.exp(logprobs, out=masses[:, :vocabulary])
    blocks = masses.view(rows, -1, _BLOCK)
    sums = blocks.sum(-1).double()
    block = _invert_cdf(sums, uniform)
    ends = sums.cumsum(-1)
    rest = uniform * ends[:, -1] - (ends - sums).gather(1, block[:, None])[:, 0]
    inside = _invert_cdf(
        blocks[torch.arange(rows, device=logprobs.device), block].double(),
        (rest / sums.gather(1, block[:, None])[:, 0]).clamp(0, 1),  # rounding leads up to a digit out of the block
    )
    return block * _BLOCK + inside


def _invert_cdf(masses: Tensor, uniform: Tensor) -> Tensor:
    """The first place up to which lies the uniform share of the masses, [rows, places] -> [rows]."""
    cumulative = masses.cumsum(-1)
    below = cumulative < (uniform * cumulative[:, -1])[:, None]
    return below.sum(-1).clamp(max=masses.shape[-1] - 1)


def uniform_numbers(seed: int, count: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """As many uniform numbers from a counter-based generator that the seed keys, [count]."""
    return np.random.Generator(np.random.Philox(key=seed)).random(count)
