"""Returns and the baselines that make advantages of them, which every reinforcement objective shares."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from math import comb
from statistics import fmean, stdev

from scorl.trajectory import Credit, Group, TrainingExample

__all__ = [
    "Baseline",
    "advantages",
    "best_of",
    "credit_attempts",
    "credit_responses",
    "leave_one_out",
    "returns",
    "reward_contexts",
    "standardize",
]

Baseline = Callable[[Sequence[float]], list[float]]
"""Turns the returns of what is compared into advantages."""


def leave_one_out(rewards: Sequence[float]) -> list[float]:
    """Each reward less the mean of the others: an unbiased advantage, neither standardised nor clamped.

    A single reward has no others and is returned as it is (plain REINFORCE).

    >>> leave_one_out([1.0, 0.0, 0.0])
    [1.0, -0.5, -0.5]
    """
    others = len(rewards) - 1
    if others < 1:
        return list(rewards)
    total = sum(rewards)
    return [reward - (total - reward) / others for reward in rewards]


def standardize(rewards: Sequence[float]) -> list[float]:
    """Each reward less the mean of all, over their standard deviation: GRPO's advantage (arXiv 2402.03300).

    Not unbiased: problems that are nearly always or hardly ever solved weigh more, and a common factor of all rewards
    cancels.

    >>> [[round(a, 2) for a in standardize(rewards)] for rewards in ([2.0, 0.0], [20.0, 0.0], [1.0, 1.0])]
    [[0.71, -0.71], [0.71, -0.71], [0.0, 0.0]]
    """
    if len(rewards) < 2:
        return list(rewards)
    mean, spread = fmean(rewards), stdev(rewards) + 1e-4
    return [(reward - mean) / spread for reward in rewards]


def best_of(rewards: Sequence[float], k: int) -> list[float]:
    """k times what each reward adds to the best of k - 1 others, on average over all choices of these.

    The gradient is that of E[max of k samples], so of pass@k where rewards are 0 and 1: the best of the others is a
    baseline that does not depend on the sample (the minus-one form of arXiv 2505.15201). k = 1 is `leave_one_out`.

    >>> best_of([1.0, 0.0, 0.0], 2), best_of([1.0, 1.0, 0.0], 2)
    ([2.0, 0.0, 0.0], [1.0, 1.0, 0.0])
    """
    if k == 1:
        return leave_one_out(rewards)
    advantages = []
    for i, reward in enumerate(rewards):
        others = sorted([*rewards[:i], *rewards[i + 1 :]])
        chances = (comb(place, k - 2) / comb(len(others), k - 1) for place in range(len(others)))
        added = (chance * max(0.0, reward - best) for chance, best in zip(chances, others, strict=True))
        advantages.append(k * sum(added))
    return advantages


def returns(rewards: Sequence[float], gamma: float) -> list[float]:
    """What each response is credited with: its reward, and the later ones discounted by `gamma` a turn.

    >>> returns([0.0, 11.0], 0.0), returns([0.0, 11.0], 0.5)
    ([0.0, 11.0], [5.5, 11.0])
    """
    credited: list[float] = []
    for reward in reversed(rewards):
        credited.append(reward + (gamma * credited[-1] if gamma and credited else 0.0))
    return credited[::-1]


def reward_contexts(rewards: Iterable[float]) -> list[tuple[float, ...]]:
    """The rewards before each response.

    >>> reward_contexts([1.0, 0.0])
    [(), (1.0,)]
    """
    rewards = tuple(rewards)
    return [rewards[:place] for place in range(len(rewards))]


def advantages(
    group: Group,
    credited: Sequence[Sequence[float]],
    *,
    first: Baseline = leave_one_out,
    later: Baseline = leave_one_out,
    contexts: Sequence[Sequence[Hashable]] | None = None,
) -> list[tuple[float, ...]]:
    """The advantage of each return among those that it is compared with.

    First responses are compared across the samples of the problem; one with several branches counts once, with the
    mean return of its branches. Later ones are compared with their siblings on the same first response where there
    are any, else across the group; with those alone that have a return at their place.

    Args:
        group: the samples of one problem.
        credited: the returns of each trajectory's responses, in the order of the group; rows may end early.
        first: compares first responses.
        later: compares later ones.
        contexts: of each return; later ones are compared within theirs, and one that is alone there with all.
    """
    families: dict[int, list[int]] = {}
    for index, trajectory in enumerate(group):
        families.setdefault(trajectory.sample, []).append(index)
    firsts = first([fmean(credited[i][0] for i in family) for family in families.values()])
    branched = len(families) < len(group)
    rows: list[list[float]] = [[] for _ in group]
    for family, value in zip(families.values(), firsts, strict=True):
        for i in family:
            rows[i].append(value)
    for place in range(1, max(map(len, credited))):
        for family in families.values() if branched else [list(range(len(group)))]:
            peers = [i for i in family if len(credited[i]) > place]
            column = [credited[i][place] for i in peers]
            compared = later(column)
            if contexts:
                compared = _within([contexts[i][place] for i in peers], column, compared, later)
            for i, value in zip(peers, compared, strict=True):
                rows[i].append(value)
    return [tuple(row) for row in rows]


def _within(
    keys: Sequence[Hashable], column: Sequence[float], among_all: Sequence[float], baseline: Baseline
) -> list[float]:
    """Each return compared with those of its key; one that is alone, with all."""
    found = list(among_all)
    places: dict[Hashable, list[int]] = defaultdict(list)
    for place, key in enumerate(keys):
        places[key].append(place)
    for alike in places.values():
        if len(alike) > 1:
            for place, value in zip(alike, baseline([column[p] for p in alike]), strict=True):
                found[place] = value
    return found


def credit_attempts(group: Group, rows: Sequence[Sequence[float]], beta: float) -> list[TrainingExample]:
    """A training example per trajectory: the advantage of each attempt, and one KL coefficient for all.

    Attempts behind the end of their row train nothing.
    """
    pairs = zip(group, rows, strict=True)
    return [TrainingExample.of_attempts(t, _padded(row, beta, len(t.attempts))) for t, row in pairs]


def credit_responses(group: Group, rows: Sequence[Sequence[float]], beta: float) -> list[TrainingExample]:
    """The same for responses of every role."""
    pairs = zip(group, rows, strict=True)
    return [TrainingExample(t, _padded(row, beta, len(t.responses))) for t, row in pairs]


def _padded(row: Sequence[float], beta: float, length: int) -> tuple[Credit, ...]:
    return (*(Credit(advantage, beta) for advantage in row), *[Credit()] * (length - len(row)))
