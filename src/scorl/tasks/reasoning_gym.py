"""`reasoning-gym`: any of the hundred procedural data sets of the package of that name (arXiv 2505.24760).

Training problems have no end. Test problems are the first different ones of a seed of their own, and none of them is
trained on.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import lru_cache, partial
from importlib import import_module
from typing import Annotated, Any

from annotated_types import Interval

from scorl.errors import UserError, nearest
from scorl.seeds import derive
from scorl.tasks.data import Finite, fill_prompt, hash_text
from scorl.tasks.task import Task
from scorl.trajectory import Problem
from scorl.verifiers import gym
from scorl.verifiers.gym_worker import create_dataset

__all__ = ["ReasoningGym", "reasoning_gym"]

PROMPT = "{question}\n\nWork it out step by step, and give the final answer alone between <answer> and </answer>."
CORRECTION = (
    "There might be an error in the solution above. Go through it again step by step, correct it if something is "
    "wrong, and give the final answer alone between <answer> and </answer>."
)
CHUNK = 500
"""Entries of a data set; reasoning-gym's own default, for which its generators are made."""
OWN_KEYS = ("seed", "size")
"""Of a data set's settings those that the task sets."""
TRIES = 20
"""Other entries in the place of one that is a test problem."""


@dataclass(frozen=True)
class ReasoningGym:
    """Settings of `reasoning-gym`."""

    dataset: str
    """Its name there: leg_counting, chain_sum, sudoku, ... or `composite`."""
    config: dict[str, Any] = field(default_factory=dict)
    """The data set's own settings, but for seed and size. Of `composite`: datasets, a list of name, weight
    and config."""
    test_size: Annotated[int, Interval(ge=1, le=1_000_000)] = 100
    """Test problems, all of which are made when the task is; those that come again are left out, with a warning."""
    prompt: str = PROMPT
    """The first prompt; `{question}` is filled in."""
    correction: str = CORRECTION
    """The message between two attempts."""


@dataclass(frozen=True)
class Generated:
    """Training problems, without end: data set after data set, each with a seed of its own."""

    settings: ReasoningGym
    held_out: frozenset[str]
    """The questions of the test problems."""

    def draw(self, count: int, start: int, seed: int) -> list[Problem]:
        """See `Problems`."""
        return [self.pick(position, seed) for position in range(start, start + count)]

    def take(self, limit: int | None) -> list[Problem]:
        """The first `limit` (None: 500) draws of seed 0, but for those that come again."""
        return list({problem.id: problem for problem in self.draw(CHUNK if limit is None else limit, 0, 0)}.values())

    def pick(self, position: int, seed: int) -> Problem:
        """The problem at a position of the stream of a seed."""
        chunk, place = divmod(position, CHUNK)
        for attempt in range(TRIES):
            entry = load_dataset(self.settings, derive("reasoning-gym", seed, chunk, attempt), CHUNK)[place]
            if entry["question"] not in self.held_out:
                return make_problem(entry, self.settings)
        raise UserError(
            f"task 'reasoning-gym': nearly all problems of '{self.settings.dataset}' are test problems, of which there "
            f"are {len(self.held_out)}; make more by its config, or test on fewer (test_size)"
        )


def reasoning_gym(settings: ReasoningGym) -> Task:
    """The task `reasoning-gym`, with the splits `train` and `test`.

    Raises:
        UserError: the package is not installed, there is no such data set, or it refuses its settings.
    """
    check(settings)
    entries = load_dataset(settings, derive("reasoning-gym", "test"), settings.test_size)
    test = list({problem.id: problem for problem in (make_problem(one, settings) for one in entries)}.values())
    if len(test) < settings.test_size:
        warnings.warn(
            f"task 'reasoning-gym': {len(test)} of the {settings.test_size} test problems of '{settings.dataset}' are "
            "different, and are taken",
            stacklevel=2,
        )
    train = Generated(settings, frozenset(problem.answer.entry["question"] for problem in test))
    judge = partial(gym.judge, dataset=settings.dataset, config=settings.config)
    return Task("reasoning-gym", {"train": train, "test": Finite(test)}, settings.correction, judge)


def check(settings: ReasoningGym) -> None:
    """Whether there are such a data set and such settings of it."""
    try:
        factory = import_module("reasoning_gym.factory")
        import_module("reasoning_gym")
    except ImportError as error:
        raise UserError(
            f"task 'reasoning-gym' needs the package: pip install 'scorl[reasoning-gym]' ({error})"
        ) from error
    if settings.dataset not in factory.DATASETS:
        raise UserError(
            f"task.dataset: no data set '{settings.dataset}': {nearest(settings.dataset, factory.DATASETS)}"
        )
    known = [field.name for field in fields(factory.DATASETS[settings.dataset][1]) if field.name not in OWN_KEYS]
    for key in settings.config:
        if key not in known:
            raise UserError(f"task.config.{key}: '{settings.dataset}' has no such setting: {nearest(key, known)}")


def load_dataset(settings: ReasoningGym, seed: int, size: int) -> Any:
    """A data set by its settings, each of the last few once."""
    try:
        return keep_dataset(settings.dataset, json.dumps(settings.config), seed % 2**31, size)
    except Exception as error:  # each data set has ways of its own to refuse
        raise UserError(f"task.config: '{settings.dataset}' refuses it ({type(error).__name__}: {error})") from error


@lru_cache(maxsize=8)
def keep_dataset(name: str, config: str, seed: int, size: int) -> Any:
    """A data set; a configuration as JSON can be kept by."""
    return create_dataset(name, json.loads(config), seed, size)


def make_problem(entry: Mapping[str, Any], settings: ReasoningGym) -> Problem:
    """An entry (`question`, `answer`, `metadata`) as a problem."""
    answer = entry["answer"] if isinstance(entry["answer"], str) else None
    return Problem(
        id=f"{settings.dataset}-{hash_text(entry['question'])}",
        prompt=fill_prompt(settings.prompt, entry["question"].strip()),
        answer=gym.GymEntry(answer, entry),
        solution=None if answer is None else f"<answer>{answer}</answer>",
    )
