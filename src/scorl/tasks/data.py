"""Finite splits: drawn from epoch by epoch, cut by a hash, every problem under a name of its own."""

from __future__ import annotations

import hashlib
import json
import random
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from scorl.errors import UserError
from scorl.seeds import derive
from scorl.tasks.rows import Row
from scorl.tasks.sources import read_rows, read_splits
from scorl.trajectory import Problem, user

__all__ = [
    "Finite",
    "divide",
    "fill_prompt",
    "hash_text",
    "make_splits",
    "named_apart",
    "split_by_hash",
    "split_key",
    "split_off",
]


@dataclass(frozen=True)
class Finite:
    """A finite split, drawn from in another order every epoch."""

    problems: Sequence[Problem]

    def draw(self, count: int, start: int, seed: int) -> list[Problem]:
        """`count` problems from the `start`-th on, through seeded permutations, one per epoch."""
        size = len(self.problems)
        return [
            self.problems[shuffle_epoch(size, seed, index // size)[index % size]]
            for index in range(start, start + count)
        ]

    def take(self, limit: int | None) -> list[Problem]:
        """The first `limit` problems in their order, or all."""
        return list(self.problems[:limit])


@dataclass(frozen=True)
class Unavailable:
    """A split that cannot be had, which matters to those alone who ask for it."""

    reason: str

    def draw(self, count: int, start: int, seed: int) -> list[Problem]:
        """See `Problems`."""
        raise UserError(self.reason)

    def take(self, limit: int | None) -> list[Problem]:
        """See `Problems`."""
        raise UserError(self.reason)


@lru_cache(maxsize=4)
def shuffle_epoch(size: int, seed: int, epoch: int) -> tuple[int, ...]:
    """The order of an epoch."""
    order = list(range(size))
    random.Random(derive(seed, "epoch", epoch)).shuffle(order)
    return tuple(order)


def split_by_hash(problems: Sequence[Problem], sizes: Sequence[int]) -> list[list[Problem]]:
    """Splits of the given sizes, in the order of a hash of the questions: the same on every machine."""
    ordered = sorted(problems, key=lambda problem: (hash_text(_split_key_of(problem)), problem.id))
    ends = [sum(sizes[: index + 1]) for index in range(len(sizes))]
    return [ordered[end - size : end] for size, end in zip(sizes, ends, strict=True)]


def split_key(question: str, template: str) -> str:
    """What splits go by, of a question in a task's own template and not the recipe's.

    Else a model that is trained with one prompt would be tested on its training problems with another.
    """
    return json.dumps(fill_prompt(template, question))


def _split_key_of(problem: Problem) -> str:
    return problem.split_key or json.dumps(problem.prompt)


def split_off(problems: Sequence[Problem], fraction: float, path: str) -> tuple[list[Problem], list[Problem]]:
    """Training problems and a test part by hash; equal questions stay on one side.

    Raises:
        UserError: nothing is left to train on; `path` says of which file.
    """
    size = max(1, round(len(problems) * fraction))
    train, test = split_by_hash(problems, (len(problems) - size, size))
    asked = {_split_key_of(problem) for problem in test}
    train = [problem for problem in train if _split_key_of(problem) not in asked]
    if not train:
        raise UserError(f"{path}: too few different problems ({len(problems)} rows) to split off a test part")
    return train, test


def make_splits(
    task: str,
    path: str | None,
    test_path: str | None,
    fraction: float,
    make: Callable[[Sequence[Row]], list[Problem]],
    config: str | None = None,
) -> dict[str, Finite | Unavailable]:
    """The splits of a task of files: `train` and `all` of `path`, and `test` of `test_path`, else of `path` itself.

    `test` is the split of that name where `path` has one, else a part by hash.

    Args:
        task: that messages name.
        path: of all problems; None: nothing is to be trained on.
        test_path: of the test problems.
        fraction: that is split off where there are no test problems.
        make: problems from rows.
        config: of a data set on the hub that has several.

    Raises:
        UserError: neither path is given, or one cannot be read.
    """
    test = named_apart(make(read_rows(test_path, "test"))) if test_path else None
    if path is None:
        if test is None:
            raise UserError(f"task '{task}': path: is missing; evaluation alone can do with test_path")
        missing = Unavailable(f"task '{task}': path: is missing; test_path alone is enough for evaluation only")
        return {"train": missing, "test": Finite(test), "all": Finite(test)}
    parts = read_splits(path, config)
    train_rows = parts.get("train") or next(iter(parts.values()))
    if test is None and "train" in parts and "test" in parts:
        test = named_apart(make(parts["test"]))
    return divide(task, named_apart(make(train_rows)), test, fraction, path, "test_path=...")


def divide(
    task: str, every: Sequence[Problem], test: Sequence[Problem] | None, fraction: float, where: str, other: str
) -> dict[str, Finite | Unavailable]:
    """The splits `train`, `test` and `all` of named problems; without test problems a part by hash is `test`.

    Args:
        task: that messages name.
        every: all problems but the test problems.
        test: the test problems, if there are any of their own.
        fraction: that is split off where there are none.
        where: the problems are from.
        other: how test problems are given, where there are too few to split any off.
    """
    if test is not None:
        warn_of_shared(task, every, test)
        return {"train": Finite(every), "test": Finite(test), "all": Finite(every)}
    try:
        train, test = split_off(every, fraction, where)
    except UserError as error:
        missing = Unavailable(f"{error}; name the test problems ({other}), or evaluate on all of them (--split all)")
        return {"train": missing, "test": missing, "all": Finite(every)}
    return {"train": Finite(train), "test": Finite(test), "all": Finite(every)}


def warn_of_shared(task: str, train: Sequence[Problem], test: Sequence[Problem]) -> None:
    """Say that problems are trained on and tested: files that somebody else has split are taken as they are."""
    asked = {str(problem.prompt) for problem in train}
    shared = sum(str(problem.prompt) in asked for problem in test)
    if shared:
        warnings.warn(f"task '{task}': {shared} of {len(test)} test problems are trained on as well", stacklevel=3)


def named_apart(problems: Sequence[Problem]) -> list[Problem]:
    """The problems with an id each: the second `q7` is `q7#2`, so that no outcome is written over another."""
    own = {problem.id for problem in problems}
    counts: Counter[str] = Counter()
    result = []
    for problem in problems:
        name = problem.id
        while counts[problem.id] and (name == problem.id or name in own):
            counts[problem.id] += 1
            name = f"{problem.id}#{counts[problem.id]}"
        counts[problem.id] += not counts[problem.id]
        result.append(problem if name == problem.id else replace(problem, id=name))
    return result


def hash_text(text: str) -> str:
    """A short hash of a text."""
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).hexdigest()


def fill_prompt(template: str, question: str) -> tuple[Any, ...]:
    """The first prompt: the template with the question in it.

    Raises:
        UserError: the template has no place for the question.
    """
    if "{question}" not in template:
        raise UserError(f"the prompt {template!r} does not contain {{question}}, the place of the problem")
    return (user(template.replace("{question}", question)),)
