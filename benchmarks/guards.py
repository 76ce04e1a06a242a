"""What the guards take of a training step: processor seconds of each, beside those of the step.

OMP_NUM_THREADS=1 python benchmarks/guards.py --recipes countdown --steps 20
"""

from __future__ import annotations

import argparse
from itertools import islice
from typing import Any

from common import clock
from profile_parts import watched

from scorl.learner import guards, motion, statistics
from scorl.model.reference import Reference
from scorl.recipe import resolve
from scorl.run.build import build
from scorl.training import batches

__all__ = ["measure"]

GUARDS: dict[str, list[tuple[Any, str]]] = {
    "rewards judged again": [(batches, "check_order")],
    "texts and draws": [(batches, "check_drawn")],
    "history and credits": [(guards, "check_history"), (guards, "check_credits")],
    "what micro-batches carry": [(statistics, "find_misplaced")],
    "what the loss makes of credits": [(statistics.StepSums, "_pull")],
    "agreement with the sampler": [(statistics.StepSums, "_agreement"), (guards, "check_agreement")],
    "steps of the optimiser": [(motion.Motion, "_take_pieces"), (motion, "check_moving")],
    "checksums of the reference": [(Reference, "has_moved")],
}


def measure(recipe: str, overrides: list[str], steps: int) -> tuple[float, dict[str, float]]:
    """The processor seconds of a step, and of each guard in it; without the first two, which prove and warm up."""
    built = build(resolve(recipe, overrides))
    run = built.train(built.learner())
    list(islice(run, 2))
    with watched(GUARDS) as seconds:
        began = clock()
        made = len(list(islice(run, steps)))
        whole = clock() - began
    return whole / made, {name: seconds[name] / made for name in GUARDS}


def main() -> None:
    """Print a table for each recipe."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--recipes", nargs="+", default=["countdown"])
    parser.add_argument("--overrides", nargs="*", default=[])
    parser.add_argument("--steps", type=int, default=10)
    args = parser.parse_args()
    for recipe in args.recipes:
        step, parts = measure(recipe, args.overrides, args.steps)
        print(f"{recipe}: {step * 1000:.0f} ms a step", flush=True)
        for name, seconds in {**parts, "all guards": sum(parts.values())}.items():
            print(f"  {name:<32}{seconds * 1000:8.2f} ms{seconds / step:8.2%}", flush=True)


if __name__ == "__main__":
    main()
