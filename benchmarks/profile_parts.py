"""Where the time of sampling and learning goes: processor seconds of each part, without those of the parts within it.

OMP_NUM_THREADS=1 python benchmarks/profile_parts.py --models tiny --shapes short long
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import growth
import torch
import transformers.models.llama.modeling_llama as llama
from common import MODELS, clock, endless
from step import STEPS, Size

import scorl
from scorl.engines import cache_layers, kv_cache
from scorl.engines import torch as engine
from scorl.learner import parallel, update
from scorl.model.onednn import OnednnLinear

__all__ = ["measure", "watched"]

SAMPLING = {
    "matrices": [(OnednnLinear, "forward")],
    "attention": [(llama.LlamaAttention, "forward")],
    "norms, rotations, activations": [
        (llama.LlamaRMSNorm, "forward"),
        (llama, "apply_rotary_pos_emb"),
        (llama.LlamaRotaryEmbedding, "forward"),
        (llama.LlamaMLP, "forward"),
    ],
    "moving keys and values": [
        (cache_layers.BufferedLayer, "update"),
        (kv_cache.CachedRows, "drop_rows"),
        (kv_cache.CachedRows, "select"),
        (engine, "concatenate_rows"),
    ],
    "drawing": [(engine, "sample_tokens"), (engine, "log_probabilities")],
}
LEARNING = {
    "layers, reference and policy": [(parallel, "hidden_states")],
    "head": [(update, "logprobs_and_kl")],
    "backward": [(torch.Tensor, "backward")],
    "layout": [(update, "micro_batches")],
    "clip and optimiser": [(scorl.Learner, "_clip_gradients"), (scorl.Learner, "_apply_gradients")],
}


def measure(model: str, size: Size) -> dict[str, dict[str, float]]:
    """The share of each part in the two phases; `the rest` is Python and small operations between them."""
    point = growth.Point(prompt=size.prompt, response=size.response, samples=size.samples)
    step = growth.Step(endless(MODELS[model]), point, size.batch, problems=size.problems)
    step.sample(), step.learn()
    return {"sampling": _shares(step.sample, SAMPLING), "learning": _shares(step.learn, LEARNING)}


def _shares(act: Callable[[], None], parts: dict[str, list[tuple[Any, str]]]) -> dict[str, float]:
    with watched(parts) as seconds:
        began = clock()
        act()
        whole = clock() - began
    rest = whole - sum(seconds.values())
    return {name: value / whole for name, value in {**seconds, "the rest": rest}.items()}


@contextmanager
def watched(parts: dict[str, list[tuple[Any, str]]]) -> Iterator[Counter[str]]:
    """Count what the named functions take while this lasts."""
    seconds: Counter[str] = Counter()
    within = [0.0]

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            began = clock()
            within.append(0.0)
            try:
                return function(*args, **options)
            finally:
                took = clock() - began
                seconds[name] += took - within.pop()
                within[-1] += took

        return call

    with ExitStack() as stack:
        for name, functions in parts.items():
            for where, attribute in functions:
                stack.enter_context(patch.object(where, attribute, timed(name, getattr(where, attribute))))
        yield seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["tiny"], choices=sorted(MODELS))
    parser.add_argument("--shapes", nargs="+", default=["short"], choices=["short", "long"])
    args = parser.parse_args()
    for model in args.models:
        for shape in args.shapes:
            for phase, shares in measure(model, STEPS[model, shape]).items():
                print(
                    model, shape, phase, ", ".join(f"{name} {share:.0%}" for name, share in shares.items()), flush=True
                )


if __name__ == "__main__":
    main()
