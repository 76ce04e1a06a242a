"""What benchmarks/gpu.py models, measured on the GPU that torch sees, with random weights: make bench-gpu.

    python benchmarks/gpu_measured.py --only learner --record

A learner's step is 64 problems, 8 samples and 2 attempts; some of the problems are run, and the others counted as them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from attempts import attempts
from transformers import AutoModelForCausalLM

from scorl.engines.engine import Request
from scorl.engines.torch import TorchEngine
from scorl.estimate.model import config_of
from scorl.learner import Learner
from scorl.model.chat import Chat
from scorl.model.policy import Policy, with_adapters
from scorl.settings import LearnerSettings, LoraSettings, ModelSettings

RESULTS = Path(__file__).with_name("results_gpu_measured.json")
GIB = 2**30
QWEN = ModelSettings("Qwen/Qwen2.5-1.5B-Instruct", dtype="bfloat16")
ADAPTERS = ModelSettings(QWEN.path, dtype="bfloat16", lora=LoraSettings())
PROBLEMS, SAMPLES = 64, 8
WORDS = 128_000
"""Random tokens are below it."""
BASE = LearnerSettings(max_logprob_gap=1e9, tokens_per_microbatch=8192, use_liger_kernel=False)
LARGE = {"tokens_per_microbatch": 16384, "gradient_checkpointing": True}
Figures = dict[str, float]


class RandomPolicy(Policy):
    """A policy of a published shape on the GPU; its responses never end."""

    def __init__(self, settings: ModelSettings, device: str = "cuda") -> None:
        self.path, self.lora, self.device = settings.path, settings.lora, torch.device(device)
        self.dtype = getattr(torch, settings.dtype)
        self.chat = cast(Chat, SimpleNamespace(ends=lambda ids: False))
        torch.manual_seed(0)
        with self.device:
            own = self.dtype if self.lora else torch.float32
            model = AutoModelForCausalLM.from_config(config_of(settings.path), dtype=own)
        self.model = (with_adapters(model, self.lora) if self.lora else model).eval()


def learner(model: ModelSettings, settings: LearnerSettings, response: int, longest: int, problems: int) -> Figures:
    """A step's seconds and the height of its memory."""
    policy = RandomPolicy(model)
    examples = attempts(problems, SAMPLES, (120, response, 60), longest, WORDS)
    taught = Learner(policy, settings, total=100)
    began = time.perf_counter()
    taught.update(examples)  # compiles, and proves that the weights move
    torch.cuda.synchronize()
    first = time.perf_counter() - began
    once = statistics.median(_seconds(partial(taught.update, [])) for _ in range(3))
    torch.cuda.reset_peak_memory_stats()
    some = statistics.median(_seconds(partial(taught.update, examples)) for _ in range(3))
    return {
        "seconds a step": (some - once) * PROBLEMS / problems + once,
        "of the optimiser": once,
        "of the first update run": first,
        "peak, GiB": torch.cuda.max_memory_allocated() / GIB,
    }


def decoding(model: ModelSettings, rows: int, columns: int, share: bool = True, tokens: int = 64) -> Figures:
    """What a decoded token of all rows takes, behind prompts that 8 samples share, or have a copy of each."""
    engine = TorchEngine(RandomPolicy(model), batch_size=rows)
    engine._can_share_prompts = lambda: share
    requests = [Request((1 + i // SAMPLES, *range(1, columns)), i) for i in range(rows)]

    def sample(count: int) -> float:
        return _seconds(partial(engine.sample, requests, temperature=1.0, max_tokens=count))

    sample(2)
    torch.cuda.reset_peak_memory_stats()
    token = (sample(2 + tokens) - sample(2)) / tokens
    memory = torch.cuda.max_memory_allocated() / GIB
    return {"tokens/s": rows / token, "ms a token of all rows": 1e3 * token, "peak, GiB": memory}


def _seconds(act: Callable[[], Any]) -> float:
    torch.cuda.synchronize()
    began = time.perf_counter()
    act()
    torch.cuda.synchronize()
    return time.perf_counter() - began


def _learner(response: int = 600, longest: int = 1024, model: ModelSettings = QWEN, **settings: Any) -> Figures:
    return learner(model, replace(BASE, **settings), response, longest, problems=3 if response < 1000 else 1)


CASES: dict[str, Callable[[], Figures]] = {
    "learner, 1.5B": _learner,
    "learner, 1.5B, checkpointing": partial(_learner, **LARGE),
    "decoding, 1.5B, 256 rows of 700": partial(decoding, QWEN, 256, 700),
    "decoding, 1.5B, prompts copied": partial(decoding, QWEN, 256, 700, share=False),
    "learner, 1.5B, Liger": partial(_learner, use_liger_kernel=True),
    "learner, 1.5B, Liger, micro-batches of 12,288": partial(
        _learner, use_liger_kernel=True, tokens_per_microbatch=12288
    ),
    "learner, 1.5B, Liger, checkpointing": partial(_learner, use_liger_kernel=True, **LARGE),
    "learner, 1.5B, Liger, packed": partial(_learner, use_liger_kernel=True, packing="packed"),
    "learner, 1.5B, Liger, adapters": partial(_learner, model=ADAPTERS, use_liger_kernel=True),
    "learner, 1.5B, Liger, 3,000 tokens, checkpointing": partial(_learner, 3000, 4096, use_liger_kernel=True, **LARGE),
    "decoding, 1.5B, Liger, 256 rows of 700": partial(decoding, QWEN, 256, 700),
}
"""Those with Liger come last: it exchanges the layers of every model of the process."""


def _chosen(only: str) -> Iterator[tuple[str, Figures]]:
    for name, measure in CASES.items():
        if only in name:
            torch.cuda.empty_cache()
            yield name, {what: float(f"{value:.4g}") for what, value in measure().items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--record", action="store_true", help=f"write the figures into {RESULTS.name}")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results["about"] = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__}
    for name, figures in _chosen(asked.only):
        print(name, *(f"    {what:28}{value:>12,.4g}" for what, value in figures.items()), sep="\n", flush=True)
        results[name] = figures
        if asked.record:
            RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
