"""How time and memory grow with samples, prompts, responses, attempts and width.

    OMP_NUM_THREADS=1 python benchmarks/growth.py --sweeps samples prompt --rounds 2

Tiny models with random weights, 2 problems a step. Peak memory is that of a step over what is there before:
the weights and the reference are not in it.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

from common import MODELS, clock, endless
from memory import Peak
from sampling import examples, ours, rollout
from transformers import AutoConfig, AutoModelForCausalLM

import scorl
from scorl.engines.torch import TorchEngine
from scorl.settings import LearnerSettings

__all__ = ["SWEEPS", "Point", "Step", "measure", "roomy"]


@dataclass(frozen=True)
class Point:
    """What a step samples and learns from; prompt and response are in tokens."""

    samples: int = 8
    prompt: int = 200
    response: int = 32
    attempts: int = 2
    width: int = 96
    vocabulary: int = 256


BASE = Point()
SWEEPS: dict[str, list[Point]] = {
    "samples": [replace(BASE, samples=n) for n in (1, 2, 4, 8, 16, 32)],
    "prompt": [replace(BASE, prompt=n) for n in (50, 100, 200, 400, 800)],
    "response": [replace(BASE, response=n) for n in (16, 32, 64, 128)],
    "attempts": [replace(BASE, attempts=n) for n in (2, 3, 4)],
    "width": [replace(BASE, width=n) for n in (96, 192, 384)],
    "vocabulary": [replace(BASE, vocabulary=n) for n in (1000, 8000, 64000)],
}
PROBLEMS = 2


def measure(point: Point, rounds: int) -> dict[str, Any]:
    """Seconds of the two phases, the least of some rounds, and the peak memory in MiB."""
    with _sized(point.width, point.vocabulary) as policy:
        step = Step(policy, point, tokens_per_microbatch=2048)
        with Peak() as peak:
            step.sample(), step.learn()
        seconds = [(_timed(step.sample), _timed(step.learn)) for _ in range(rounds)]
    sampled, learned = map(min, zip(*seconds, strict=True))
    return {**asdict(point), "sample": sampled, "learn": learned, "seconds": sampled + learned, "peak_mib": peak.mib}


def roomy(samples: int = 32, response: int = 512, learned: int = 4) -> dict[str, float]:
    """Peak memory in MiB of many long samples of SmolLM2; as many as `learned` show the learner's, which goes by
    micro-batches of 1024 tokens and makes the rest of them alike."""
    policy = endless(MODELS["smollm2"])
    point = replace(BASE, samples=samples, response=response, attempts=1)
    step = Step(policy, point, tokens_per_microbatch=1024, problems=1)
    with Peak() as sampling:
        step.sample()
    step.rows = step.rows[:learned]
    with Peak() as learning:
        step.learn()
    return {"samples": samples, "response": response, "sample_mib": sampling.mib, "learn_mib": learning.mib}


class Step:
    """Sampling and learning from it, one after the other."""

    def __init__(
        self, policy: scorl.Policy, point: Point, tokens_per_microbatch: int, problems: int = PROBLEMS
    ) -> None:
        settings = LearnerSettings(
            learning_rate=1e-6, tokens_per_microbatch=tokens_per_microbatch, max_logprob_gap=float("inf")
        )
        self.learner = scorl.Learner(policy, settings, total=10**6)
        self.engine, self.point = TorchEngine(policy), point
        draw = random.Random(0)
        vocabulary = policy.decoder.config.vocab_size
        words = [[draw.randrange(vocabulary) for _ in range(point.prompt)] for _ in range(problems)]
        self.prompts = [p for p in words for _ in range(point.samples)]
        self.said = words[0][:12]

    def sample(self) -> None:
        mine = ours(self.engine, self.point.response)
        self.rows = examples(rollout(mine, self.prompts, lambda p, y: p + y + self.said, self.point.attempts))

    def learn(self) -> None:
        self.learner.update(self.rows)


def _timed(act: Any) -> float:
    began = clock()
    act()
    return clock() - began


@contextmanager
def _sized(width: int, vocabulary: int) -> Iterator[scorl.Policy]:
    """The shipped model's like with random weights, of another width and vocabulary."""
    shipped = scorl.Policy(MODELS["tiny"])
    config = AutoConfig.for_model(**shipped.decoder.config.to_dict())
    config.hidden_size, config.intermediate_size = width, 8 * width // 3
    config.head_dim, config.vocab_size = width // config.num_attention_heads, vocabulary
    with tempfile.TemporaryDirectory() as folder:
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        shipped.tokenizer.save_pretrained(folder)
        yield endless(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sweeps", nargs="+", default=["samples"], choices=sorted(SWEEPS))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--roomy", action="store_true", help="peak memory of 32 samples of 512 tokens of SmolLM2")
    args = parser.parse_args()
    for sweep in args.sweeps:
        for point in SWEEPS[sweep]:
            print(sweep, measure(point, args.rounds), flush=True)
    if args.roomy:
        print(roomy())


if __name__ == "__main__":
    main()
