"""The stories of `word-problems`: wordings, ranges of numbers, and the steps to the answer."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["ONE_STEP", "TWO_STEP", "Story"]

NAMES = ("Ada", "Ben", "Carla", "Dario", "Ella", "Femi", "Hugo", "Ines", "Kemi", "Milo", "Omar", "Tara")
THINGS = ("apples", "marbles", "stickers", "shells", "stamps", "coins", "cards", "cookies", "books", "plums")


@dataclass(frozen=True)
class Story:
    """A story: several wordings of the same steps.

    A step is `left operator right`; `a`, `b`, `c` are the numbers and `s` is the result of the step before.
    """

    name: str
    steps: tuple[str, ...]
    ranges: Mapping[str, tuple[int, int]]
    wordings: tuple[str, ...]

    def draw_numbers(self, rng: random.Random) -> dict[str, int]:
        """Numbers by which every step comes out as a whole number of at least one."""
        while True:
            values = {name: rng.randint(low, high) for name, (low, high) in self.ranges.items()}
            if all(result is not None for _, result in self.work_steps(values)):
                return values

    def solve(self, values: Mapping[str, int]) -> tuple[tuple[str, ...], int]:
        """The steps written out, and the answer."""
        worked = [(text, result) for text, result in self.work_steps(values) if result is not None]
        return tuple(text for text, _ in worked), worked[-1][1]

    def work_steps(self, values: Mapping[str, int]) -> list[tuple[str, int | None]]:
        """Each step with its result; None, and no further step, where that is no positive whole number."""
        numbers = dict(values)
        worked: list[tuple[str, int | None]] = []
        for step in self.steps:
            left, operator, right = step.split()
            result = apply_operator(operator, numbers[left], numbers[right])
            worked.append((f"{numbers[left]} {operator} {numbers[right]} = {result}", result))
            if result is None:
                break
            numbers["s"] = result
        return worked

    def tell(self, values: Mapping[str, int], rng: random.Random) -> str:
        """The question in one of its wordings, with two names and a thing."""
        name, other = rng.sample(NAMES, 2)
        return rng.choice(self.wordings).format(name=name, other=other, things=rng.choice(THINGS), **values)


def apply_operator(operator: str, left: int, right: int) -> int | None:
    """A step of arithmetic, where it gives a whole number of at least one."""
    if operator == "/":
        return left // right if left % right == 0 else None
    result = {"+": left + right, "-": left - right, "*": left * right}[operator]
    return result if result >= 1 else None


ONE_STEP = (
    Story(
        "gain",
        ("a + b",),
        {"a": (5, 60), "b": (3, 40)},
        (
            "{name} has {a} {things}. {other} gives {name} {b} more. How many {things} does {name} have now?",
            "There are {a} {things} on a table. {name} puts {b} more beside them. How many {things} are on the table?",
            "On Monday {name} collected {a} {things}, and on Tuesday {b}. How many {things} are that together?",
        ),
    ),
    Story(
        "loss",
        ("a - b",),
        {"a": (10, 80), "b": (3, 60)},
        (
            "{name} had {a} {things} and gave {b} of them to {other}. How many {things} does {name} have left?",
            "A shop has {a} {things} in the morning and sells {b} of them. How many {things} are left?",
            "Of {a} {things} in a box, {name} takes out {b}. How many {things} stay in the box?",
        ),
    ),
    Story(
        "difference",
        ("a - b",),
        {"a": (10, 80), "b": (3, 60)},
        (
            "{name} has {a} {things} and {other} has {b}. How many more {things} does {name} have than {other}?",
            "{other} found {b} {things}, {name} found {a}. How many fewer {things} did {other} find?",
        ),
    ),
    Story(
        "groups",
        ("a * b",),
        {"a": (2, 12), "b": (2, 12)},
        (
            "{name} packs {a} bags with {b} {things} each. How many {things} does {name} pack?",
            "There are {a} shelves, and on each of them are {b} {things}. How many {things} are there?",
            "{name} buys {b} {things} every day for {a} days. How many {things} does {name} buy?",
        ),
    ),
    Story(
        "share",
        ("a / b",),
        {"a": (6, 120), "b": (2, 12)},
        (
            "{name} shares {a} {things} equally among {b} friends. How many {things} does each friend get?",
            "{a} {things} are packed into {b} boxes, the same number into each. How many {things} are in a box?",
        ),
    ),
    Story(
        "missing",
        ("a - b",),
        {"a": (10, 80), "b": (3, 60)},
        (
            "{name} needs {a} {things} and has {b}. How many {things} are missing?",
            "{name} and {other} have {a} {things} together. {b} of them belong to {other}. How many are {name}'s?",
        ),
    ),
)
TWO_STEP = (
    Story(
        "gain-loss",
        ("a + b", "s - c"),
        {"a": (5, 50), "b": (3, 40), "c": (2, 60)},
        (
            "{name} has {a} {things}, gets {b} more and then gives {c} to {other}. How many {things} are left?",
            "A bus carries {a} people. At a stop {b} get on and {c} get off. How many people are on the bus now?",
            "{name} picked {a} {things} before noon and {b} after it, and sold {c}. How many {things} remain?",
        ),
    ),
    Story(
        "groups-gain",
        ("a * b", "s + c"),
        {"a": (2, 9), "b": (2, 12), "c": (2, 30)},
        (
            "{name} has {a} bags with {b} {things} each, and {c} loose {things}. How many {things} are that in all?",
            "{name} reads {b} pages a day for {a} days, and {c} pages on the day after. How many pages are that?",
        ),
    ),
    Story(
        "groups-loss",
        ("a * b", "s - c"),
        {"a": (2, 9), "b": (2, 12), "c": (2, 40)},
        (
            "{name} buys {a} packs of {b} {things} and loses {c} of them. How many {things} does {name} still have?",
            "A hall has {a} rows of {b} chairs. {c} chairs are taken. How many chairs are free?",
        ),
    ),
    Story(
        "gain-share",
        ("a + b", "s / c"),
        {"a": (5, 50), "b": (3, 40), "c": (2, 9)},
        (
            "{name} has {a} {things} and {other} has {b}. They put them together and share them equally among"
            " {c} children. How many {things} does each child get?",
            "A baker makes {a} rolls in the morning and {b} at noon, and fills {c} baskets with equally "
            "many. How many"
            " rolls are in a basket?",
        ),
    ),
    Story(
        "loss-share",
        ("a - b", "s / c"),
        {"a": (10, 90), "b": (2, 50), "c": (2, 9)},
        (
            "Of {a} {things}, {name} keeps {b} and shares the rest equally among {c} friends. How many "
            "{things} does"
            " each friend get?",
            "{name} had {a} coins, spent {b} and divided what was left into {c} equal piles. How many "
            "coins are in a"
            " pile?",
        ),
    ),
    Story(
        "times-total",
        ("a * b", "s + a"),
        {"a": (3, 25), "b": (2, 6)},
        (
            "{name} has {a} {things}. {other} has {b} times as many. How many {things} do they have together?",
            "A short rope is {a} metres long, a long one {b} times that. How many metres are both together?",
        ),
    ),
    Story(
        "price-change",
        ("a * b", "c - s"),
        {"a": (2, 9), "b": (2, 9), "c": (20, 100)},
        (
            "{name} buys {a} {things} for {b} dollars each and pays with {c} dollars. How many dollars come back?",
            "{name} has {c} dollars and buys {a} tickets at {b} dollars. How many dollars are left?",
        ),
    ),
)
