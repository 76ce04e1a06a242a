"""How well `scorl plan` foretells a run on this CPU: its memory, and the time that two measured steps promise.

    OMP_NUM_THREADS=1 MALLOC_MMAP_THRESHOLD_=262144 python benchmarks/estimate.py countdown --response-tokens 12

Memory is the resident size at its height; planned are the tensors beside what the process has when a first run is gone.
glibc keeps much of what was freed, which no plan knows of, unless MALLOC_MMAP_THRESHOLD_ has large blocks given back.
"""

from __future__ import annotations

import argparse
import gc

from scorl.estimate.device import DEVICES
from scorl.estimate.measured import Peak, measure
from scorl.estimate.model import config_of
from scorl.estimate.plan import Case, memory_of
from scorl.estimate.workload import lengths_of
from scorl.recipe import resolve


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--response-tokens", type=int)
    args = parser.parse_args()
    recipe = resolve(args.recipe, args.overrides)
    lengths = lengths_of(recipe, response=args.response_tokens)
    planned = memory_of(Case(recipe, DEVICES["h100"], config_of(recipe.model.path), lengths)).peak
    few, _ = measure(recipe, 2)  # imports the libraries and compiles oneDNN's kernels, which a plan knows nothing of
    gc.collect()
    with Peak() as before:
        pass
    many, height = measure(recipe, args.steps)
    print("| | planned | measured | planned / measured |")
    print("|---|---|---|---|")
    rows = [("process, MiB", (before.bytes + planned) / 2**20, height / 2**20)]
    for stage, one, other in zip(recipe.stages, few, many, strict=True):
        rows += [
            (f"{stage.label}, {name}, s", *(getattr(m, name) for m in (one, other))) for name in ("sample", "learn")
        ]
    for name, one, other in rows:
        print(f"| {name} | {one:.3g} | {other:.3g} | {one / other:.2f} |")


if __name__ == "__main__":
    main()
