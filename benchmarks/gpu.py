"""A model of one H100: the real learner and engine at real shapes on a pretend GPU without numbers.

    make bench-gpu-model
    PYTHONPATH=tests python benchmarks/gpu.py --only "learner, 1.5B" --record now

Nothing here has run on a GPU. Seconds are a roofline by the rates of `scorl.estimate.device`, which are assumed to be
right within a quarter; operations, launches, casts, waits and bytes are counted in the code as it is.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import warnings
from pathlib import Path

from support.pretend_gpu.guard import build_guard, load_guard, why_not

RESULTS = Path(__file__).with_name("results_gpu.json")
Results = dict[str, dict[str, dict[str, float]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--record", choices=["before", "now"], help=f"write the figures into {RESULTS.name}")
    chosen = parser.parse_args()
    if reason := why_not():
        sys.exit(reason)
    with tempfile.TemporaryDirectory() as folder:
        load_guard(build_guard(Path(folder)))
    warnings.simplefilter("ignore")
    from gpu_model.cases import CASES  # imports torch, which must find the guard

    results: Results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"before": {}, "now": {}}
    for name, figures_of in CASES.items():
        if chosen.only not in name:
            continue
        began = time.perf_counter()
        figures = {what: float(f"{value:.4g}") for what, value in figures_of().items()}
        _show(name, results["before"].get(name, {}), figures, time.perf_counter() - began)
        if chosen.record:
            results[chosen.record][name] = figures
            RESULTS.write_text(json.dumps(results, indent=1) + "\n")


def _show(name: str, before: dict[str, float], now: dict[str, float], seconds: float) -> None:
    print(f"{name}  (modelled in {seconds:.0f} s)")
    print(f"    {'':28}{'before':>12}{'now':>12}")
    for what, value in now.items():
        was = f"{before[what]:,.4g}" if what in before else "-"
        print(f"    {what:28}{was:>12}{value:>12,.4g}", flush=True)


if __name__ == "__main__":
    main()
