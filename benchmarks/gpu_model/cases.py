"""The cases of benchmarks/gpu.py, each a dictionary of figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from attempts import attempts

from gpu_model.decoding import decoding_cost
from gpu_model.learning import learner_cost
from scorl.estimate.device import DEVICES, GIB
from scorl.estimate.ledger import COPIES
from scorl.recipe import Recipe, resolve, shipped_recipes
from scorl.settings import LearnerSettings, LoraSettings, ModelSettings

__all__ = ["CASES", "Figures"]

Figures = dict[str, float]

CARD = DEVICES["h100"]
QWEN = ModelSettings("Qwen/Qwen2.5-1.5B-Instruct", dtype="bfloat16")
ADAPTERS = ModelSettings(QWEN.path, dtype="bfloat16", lora=LoraSettings())
LARGE = ModelSettings("Qwen/Qwen2.5-7B-Instruct", dtype="bfloat16")
WORDS = 128_000
"""Random tokens are below it."""
PROMPT, TURN = 120, 60
ASLEEP = 1.0
"""GiB that vLLM keeps while it sleeps (assumed)."""
MADE_FOR = {"1.5b": ("h100", 1), "gemma": ("h100", 1), "7b": ("h100", 8), "8b": ("h100", 8)}
"""GPUs of recipes that name none."""


def _learner(model: ModelSettings, response: int, longest: int, part: int, checkpointing: bool = False) -> Figures:
    """A step of 64 problems, 8 samples, 2 attempts; a part of the problems stands for all."""
    settings = LearnerSettings(gradient_checkpointing=checkpointing, max_logprob_gap=1e9, use_liger_kernel=False)
    examples = attempts(64 // part, 8, (PROMPT, response, TURN), longest, WORDS)
    cost = learner_cost(model, settings, examples, CARD, scale=part)
    return {
        "seconds a step": cost.seconds,
        "launches": cost.launches,
        "whole-head casts": cost.head_casts,
        "waits": cost.syncs,
        "micro-batches": cost.micro_batches,
        "peak, GiB": sum(cost.memory.peak().values()) / GIB,
        "layouts on the host, MiB": cost.host_bytes / 2**20,
    }


def _decoding(model: ModelSettings, rows: int, columns: int) -> Figures:
    cost = decoding_cost(model, rows, columns, samples=8, device=CARD)
    return {
        "tokens/s": cost.tokens_per_second,
        "ms a token of all rows": cost.milliseconds,
        "launches": cost.launches,
        "waits": cost.syncs,
        "peak, GiB": cost.memory,
    }


def _recipe(name: str) -> Figures:
    """The learner's peak on the card that the recipe is made for; weights in shards where they are."""
    recipe = resolve(name)
    gpu, count = _gpus(recipe, name)
    card = DEVICES[gpu]
    shape = (PROMPT, 600, TURN)
    problems = max(2, 2 * recipe.learner.tokens_per_microbatch // (8 * 2 * 600))
    examples = attempts(problems, 8, shape, recipe.engine.max_tokens, WORDS)
    sharded = recipe.launcher.parallel == "fsdp2" and count > 1
    settings = replace(recipe.learner, max_logprob_gap=1e9)
    cost = learner_cost(recipe.model, settings, examples, card, largest_alone=True, sharded=sharded)
    share = dict.fromkeys(("weights", "reference", "optimiser", "gradients"), 1 / count) if sharded else {}
    share |= {COPIES: 0.0} if sharded else {}  # FSDP2 gathers weights in half precision instead
    peak = sum(cost.memory.peak(share).values()) / GIB + sharded * 2 * cost.gathered / GIB
    if recipe.engine.name == "vllm":
        vllm: Any = recipe.engine.settings
        peak += ASLEEP if vllm.enable_sleep_mode else vllm.gpu_memory_utilization * card.memory / GIB
    return {"peak, GiB": peak, "of the card": peak * GIB / card.memory}


def _gpus(recipe: Recipe, name: str) -> tuple[str, int]:
    gpu = getattr(recipe.launcher, "gpu", None)
    if gpu is not None:
        return gpu, recipe.launcher.workers or 1
    return next(made for part, made in MADE_FOR.items() if part in name)


def _on_gpus() -> list[str]:
    return [name for name in shipped_recipes() if name.startswith(("math-", "mbpp-"))]


CASES: dict[str, Callable[[], Figures]] = {
    "learner, 1.5B": partial(_learner, QWEN, 600, 1024, 8),
    "learner, 1.5B, checkpointing": partial(_learner, QWEN, 600, 1024, 8, checkpointing=True),
    "learner, 1.5B, adapters": partial(_learner, ADAPTERS, 600, 1024, 8),
    "learner, 1.5B, 3,000 tokens, checkpointing": partial(_learner, QWEN, 3000, 4096, 32, checkpointing=True),
    "decoding, 1.5B, 256 rows of 700": partial(_decoding, QWEN, 256, 700),
    "decoding, 7B, 256 rows of 1,000": partial(_decoding, LARGE, 256, 1000),
    **{f"recipe {name}": partial(_recipe, name) for name in _on_gpus()},
}
"""By name: 64 problems, 8 samples and 2 attempts a step on one H100, and each shipped recipe for GPUs on its own."""
