"""How well `scorl plan` foretells a run: steps made here beside the plan for texts as long, on this CPU.

    OMP_NUM_THREADS=1 python benchmarks/planning.py countdown --steps 8
    OMP_NUM_THREADS=1 python benchmarks/planning.py smollm2-products --steps 2

Seconds are the process's own (one thread). Memory is the resident size at its height; glibc keeps much of what was
freed, which no plan knows of, unless MALLOC_MMAP_THRESHOLD_=262144 says that large blocks are given back.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from scorl.planning.check import beside
from scorl.recipe import resolve


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    args = parser.parse_args()
    found = [asdict(figures) for figures in beside(resolve(args.recipe, args.overrides), args.steps)]
    print("| a step | predicted | measured | predicted / measured |")
    print("|---|---|---|---|")
    for name, unit, scale in (("sample", "s", 1.0), ("learn", "s", 1.0), ("bytes", "MiB", 2.0**-20)):
        predicted, measured = (figures[name] * scale for figures in found)
        print(f"| {name}, {unit} | {predicted:.3g} | {measured:.3g} | {predicted / measured:.2f} |")
    if args.out:
        args.out.write_text(json.dumps(dict(zip(("predicted", "measured"), found, strict=True)), indent=1) + "\n")


if __name__ == "__main__":
    main()
