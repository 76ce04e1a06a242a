"""Sampling against vLLM, whose server runs in an environment of its own (make test-vllm makes one).

    OMP_NUM_THREADS=1 python benchmarks/vllm_sampling.py --python .venv-vllm/bin/python

The same two turns by both, as in sampling.py. The server is another process, so here the seconds are those that pass:
the machine should be idle.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import replace
from pathlib import Path

from common import MODELS, endless, paired
from sampling import asked, ours, rollout
from step import STEPS, Size

from scorl.engines.torch import TorchEngine
from scorl.engines.vllm.engine import VllmEngine
from scorl.settings import VllmSettings

__all__ = ["PYTHON", "measure"]

PYTHON = Path(os.environ.get("SCORL_VLLM_PYTHON", Path(__file__).parents[1] / ".venv-vllm" / "bin" / "python"))


def measure(model: str, size: Size, rounds: int, python: Path = PYTHON) -> dict[str, float]:
    """Tokens a second of ours and of vLLM, once its server runs and has the weights."""
    policy = endless(MODELS[model])
    prompts, follow = asked(policy, size)
    mine = ours(TorchEngine(policy), size.response)
    theirs = ours(VllmEngine(policy, VllmSettings(python=str(python), max_model_len=1024)), size.response)
    found = paired(
        lambda: rollout(mine, prompts, follow),
        lambda: rollout(theirs, prompts, follow),
        rounds,
        clock=time.perf_counter,
    )
    return found.figures(2 * len(prompts) * size.response)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="smollm2", choices=sorted(MODELS))
    parser.add_argument("--shapes", nargs="+", default=["short"], choices=["short", "long"])
    parser.add_argument("--python", type=Path, default=PYTHON, help="the Python that has vLLM")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--problems", type=int, default=2, help="of 8 samples each")
    args = parser.parse_args()
    for shape in args.shapes:
        size = replace(STEPS[args.model, shape], problems=args.problems)
        found = measure(args.model, size, args.rounds, args.python)
        print(args.model, shape, found, flush=True)


if __name__ == "__main__":
    main()
