"""The whole step against TRL: sample two turns, judge, learn; the same problems, tokens and samples, in turns.

OMP_NUM_THREADS=1 python benchmarks/step.py --models tiny --shapes short --rounds 5
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import MODELS, Comparison, clock, endless, task
from floor import matrix_rate, work

import scorl
from scorl.settings import Dtype, LearnerSettings, Sampling
from scorl.training.step import Step

__all__ = ["STEPS", "measure"]


@dataclass(frozen=True)
class Size:
    """Problems of a step, tokens of a first prompt, of a response, and of a micro-batch."""

    problems: int
    prompt: int
    response: int
    batch: int
    samples: int = 8


STEPS = {
    ("tiny", "short"): Size(16, 40, 24, 4096),
    ("tiny", "long"): Size(16, 200, 24, 4096),
    ("smollm2", "short"): Size(2, 60, 24, 2048),
    ("smollm2", "long"): Size(2, 200, 24, 2048),
}


def measure(model: str, size: Size, rounds: int, dtype: Dtype = "float32", onednn: bool = False) -> dict[str, Any]:
    """Tokens written a second by ours and TRL's steps, and what share of the floor ours reaches.

    Ours computes in what a run would choose; TRL in `dtype`, if `onednn` by our linear layers.
    """
    from trl_peer import Peer

    policy = endless(MODELS[model])
    about = task(policy, size.prompt)
    found = Comparison([], [])
    last: list[Step] = []
    with tempfile.TemporaryDirectory() as scratch:
        policy.save(Path(scratch, "model"))
        prompts = [policy.chat.prompt(p.prompt) for p in about.split("train").draw(size.problems, 0, 0)]
        row = len(prompts[0]) + 2 * size.response + len(policy.chat.follow((), (), about.correction))
        fits = max(1, size.batch // row)
        rows = max(r for r in range(1, fits + 1) if size.problems * size.samples % r == 0)
        chat, correction = policy.chat, about.correction
        folder = Path(scratch, "model")
        peer = Peer(folder, chat, prompts, correction, size.samples, size.response, rows, dtype, onednn)
        steps = _steps(policy, about, size, rounds + 1)

        def between(seconds: float) -> None:
            began = clock()
            last[:] = [next(steps)]
            if len(peer.sampling) > 1:  # the first of both warms up
                found.ours.append(clock() - began)
                found.peer.append(seconds)

        peer.train(rounds + 1, between, Path(scratch, "trl"))
    needed = work(policy, last[0].examples)
    rate = matrix_rate(policy)
    middle = statistics.median(found.ours)
    return {
        **found.figures(needed.written),
        "peer_sampling_share": statistics.median(peer.sampling[1:]) / statistics.median(found.peer),
        "floor_share": (needed.sampling + needed.learning) / rate / middle,
        "dtype": str(policy.dtype).removeprefix("torch."),
        "gflop_per_second": rate / 1e9,
        "rows_of_a_micro_batch": rows,
        "pairs": list(zip(found.ours, found.peer, strict=True)),
    }


def _steps(policy: scorl.Policy, about: Any, size: Size, count: int) -> Any:
    settings = LearnerSettings(learning_rate=1e-6, tokens_per_microbatch=size.batch, max_logprob_gap=float("inf"))
    stage = scorl.Stage(scorl.StageTwo(), steps=count, problems=size.problems, samples=size.samples)
    learner = scorl.Learner(policy, settings, total=count)
    return scorl.train(policy, about, [stage], sampling=Sampling(max_tokens=size.response), learner=learner)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["tiny"], choices=sorted(MODELS))
    parser.add_argument("--shapes", nargs="+", default=["short"], choices=["short", "long"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="of TRL's products")
    parser.add_argument("--onednn-peer", action="store_true", help="give TRL's model our linear layers")
    args = parser.parse_args()
    for model in args.models:
        for shape in args.shapes:
            found = measure(model, STEPS[model, shape], args.rounds, args.dtype, args.onednn_peer)
            print(model, shape, found, flush=True)


if __name__ == "__main__":
    main()
