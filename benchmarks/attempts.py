"""A step's worth of attempts of random tokens."""

from __future__ import annotations

import math

import numpy as np

from scorl.trajectory import Credit, Problem, Response, TrainingExample, Trajectory, Verdict

__all__ = ["attempts"]

SPREAD = 0.4
"""Standard deviation of the logarithm of a response's length (assumed)."""


def attempts(
    problems: int, samples: int, shape: tuple[int, int, int], longest: int, vocabulary: int
) -> list[TrainingExample]:
    """Trajectories of two attempts by random tokens; `shape`: prompt, response on average, turn between."""
    draw = np.random.default_rng(0)
    prompt, response, turn = shape

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(draw.integers(10, vocabulary, count).tolist())

    def written() -> tuple[int, ...]:
        length = draw.lognormal(math.log(response) - SPREAD**2 / 2, SPREAD)
        return tokens(int(min(longest, max(response / 20, length))))

    between, found = tokens(turn), []
    for problem in range(problems):
        first = tokens(prompt)
        for sample in range(samples):
            row, responses = first, []
            for _ in range(2):
                ids = written()
                responses.append(Response(row, ids, (0.0,) * len(ids), "", "stop", Verdict(0.0, "")))
                row = (*row, *ids, *between)
            trajectory = Trajectory(Problem(str(problem), ()), sample, tuple(responses))
            found.append(TrainingExample(trajectory, (Credit(1.0, 0.01), Credit(-1.0, 0.01))))
    return found
