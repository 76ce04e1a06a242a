"""Other samplers: `transformers.generate`, and the continuous batching of transformers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig

import scorl
from scorl.settings import Dtype

__all__ = ["PEERS", "Ids", "generated"]

Ids = list[list[int]]


def generated(model: Any, prompts: Ids, tokens: int, pad: int, dtype: Dtype = "float32") -> Ids:
    """Responses of `transformers.generate`, all in one batch, each of so many tokens.

    In bfloat16 the weights are cast once, by an autocast around it all; in inference mode it would cast for each token.
    """
    model.generation_config.eos_token_id = None  # every response takes all its room
    longest = max(map(len, prompts))
    ids = torch.tensor([[pad] * (longest - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    half = dtype != "float32"
    with (
        torch.no_grad() if half else torch.inference_mode(),
        torch.autocast("cpu", getattr(torch, dtype), enabled=half),
    ):
        rows = model.generate(
            input_ids=ids, attention_mask=mask, do_sample=True, top_k=0, max_new_tokens=tokens, pad_token_id=pad
        )
    return rows[:, longest:].tolist()


def generate(policy: scorl.Policy, tokens: int) -> Callable[[Ids], Ids]:
    """`transformers.generate`, all rows in one batch."""
    pad, dtype = policy.chat.tokenizer.pad_token_id, str(policy.dtype).removeprefix("torch.")
    return lambda prompts: generated(policy.decoder, prompts, tokens, pad, dtype)


def continuous(policy: scorl.Policy, tokens: int) -> Callable[[Ids], Ids]:
    """The continuous batching of transformers: blocks of 16 tokens, which prompts share."""
    asked = GenerationConfig(do_sample=True, top_k=0, max_new_tokens=tokens, eos_token_id=-1, pad_token_id=0)
    blocks = ContinuousBatchingConfig(page_size=16, num_blocks=2048, max_batch_tokens=4096, use_async_batching=False)

    def sample(prompts: Ids) -> Ids:
        found = policy.decoder.generate_batch(prompts, asked, blocks)
        rows = sorted(found.values(), key=lambda row: int(row.request_id.rsplit("_", 1)[-1]))
        return [row.generated_tokens for row in rows]

    return sample


PEERS = {"generate": generate, "continuous": continuous}
