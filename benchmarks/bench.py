"""All comparisons, phases and growth in one run, written to results.json.

    make bench          OMP_NUM_THREADS=1 python benchmarks/bench.py
    make bench-quick    the same with fewer rounds and points

results.json holds for each comparison `ours` and `peer` in tokens written a second and `ratio`, the median of paired
ratios; for each phase its `floor_share` (floor.py); for each sweep its points. `--only step` measures what begins so
and keeps the rest of the file.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import growth
import learning
import sampling
import step
import torch
import transformers
import vllm_sampling
from common import MODELS, endless, examples

import scorl
from scorl.settings import LearnerSettings

OUT = Path(__file__).with_name("results.json")
Job = tuple[str, Callable[[], dict[str, Any]]]


def jobs(quick: bool) -> Iterator[Job]:
    """What is measured: where it stands in results.json, and what measures it."""
    for (model, shape), size in step.STEPS.items():
        rounds = {"tiny": 5, "smollm2": 2}[model] if not quick else {"tiny": 2, "smollm2": 1}[model]
        place = f"comparisons/step {model} {shape} / trl"
        yield f"{place} in float32", partial(step.measure, model, size, rounds)
        yield f"{place} in bfloat16", partial(step.measure, model, size, rounds, "bfloat16")
        if (model, shape) == ("tiny", "short") and not quick:
            yield f"{place} with our products", partial(step.measure, model, size, 2, onednn=True)
        yield f"phases/learning {model} {shape}", partial(learned, model, size, rounds)
        for peer in ("generate", "continuous"):
            if peer == "generate" or (shape == "short" and not quick):
                place = f"comparisons/sampling {model} {shape} / {peer}"
                yield place, partial(sampling.measure, model, size, peer, rounds)
    yield from ((f"growth/{name}", partial(sweep, points, quick)) for name, points in growth.SWEEPS.items())
    if not quick:
        if vllm_sampling.PYTHON.exists():
            for rows in (16, 64):
                size = replace(step.STEPS["smollm2", "short"], problems=rows // 8)
                place = f"comparisons/sampling smollm2 of {rows} rows / vllm"
                yield place, partial(vllm_sampling.measure, "smollm2", size, 3)
        yield "phases/sampling smollm2 of 64 rows", partial(crowd, 2)
        yield "growth/32 samples of 512 tokens", growth.roomy


def sweep(points: list[growth.Point], quick: bool) -> dict[str, Any]:
    """Every point of a sweep, or every other one."""
    return {"points": [growth.measure(point, 2) for point in (points[::2] if quick else points)]}


def learned(model: str, size: step.Size, rounds: int) -> dict[str, Any]:
    """Trees against rows, on examples of the whole step's size."""
    policy = endless(MODELS[model])
    settings = LearnerSettings(learning_rate=1e-6, tokens_per_microbatch=size.batch, max_logprob_gap=float("inf"))
    shape = (size.prompt, size.response, 30)
    rows = examples(policy, shape, size.problems, size.samples, spread=0)
    figures = learning.measure(scorl.Learner(policy, settings, total=10**6), rows, rounds)
    return {**figures, "floor_share": figures["floor_share"]["prefix_tree"]}


def crowd(rounds: int) -> dict[str, Any]:
    """Sampling for 8 problems at once, where the matrices are wide enough to be fast."""
    return sampling.measure("smollm2", replace(step.STEPS["smollm2", "short"], problems=8), None, rounds)


def about(quick: bool) -> dict[str, Any]:
    """What it was measured with."""
    packages = {}
    for name in ("torch", "transformers", "trl"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    return {"quick": quick, "threads": torch.get_num_threads(), "machine": platform.machine(), "packages": packages}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds and points, at most 8 minutes")
    parser.add_argument("--only", default="", help="measure what begins so, and keep the file's other figures")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    results = json.loads(args.out.read_text()) if args.only and args.out.exists() else {}
    results["about"] = about(args.quick)
    for place, measure in jobs(args.quick):
        kind, name = place.split("/", 1)
        if place.startswith(args.only) or name.startswith(args.only):
            began = time.process_time()
            found = measure()
            results.setdefault(kind, {})[name] = found
            print(place, shown(found), f"{time.process_time() - began:.0f} s", flush=True)
            args.out.write_text(json.dumps(rounded(results), indent=1) + "\n")


def shown(found: dict[str, Any]) -> str:
    return ", ".join(f"{key} {found[key]:.4g}" for key in ("ours", "peer", "ratio", "floor_share") if key in found)


def rounded(value: Any) -> Any:
    """The same with four digits of every number."""
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(inner) for inner in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


if __name__ == "__main__":
    main()
