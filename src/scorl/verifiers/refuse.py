r"""Answers that are not paid although they may be equal: too hard, several for one or left undone.

Each is a way to be paid without an answer, or to cost a worker its whole time: `1, 2, 3, ...`, `9^{9^9}`, `10/2`. The
problem once more: echo.py.
"""

from __future__ import annotations

import math
import re

from scorl.verifiers.normalize import THOUSANDS, parse_number

__all__ = ["LENGTH", "asks_too_much", "is_too_hard", "is_unfinished", "lists_numbers"]

LENGTH, DEPTH = 1000, 20
"""The longest answer and the deepest nesting of brackets that is compared symbolically."""
EXPONENT = 4
"""Exponents of more digits are too large."""
HUGE = re.compile(
    rf"\d{{6,}}\)?\s*!|!\s*!|binom\s*\{{?\s*\d{{6,}}|\^[\s{{(]*-?\d{{{EXPONENT + 1},}}"
    r"|(?:\^[\s{(]*(?:\d+|[a-z])\s*){3}"
)
TOWER = re.compile(r"\^[\s{(]*(\d+)\s*\^[\s{(]*(\d+)")
COMMAND = re.compile(r"\\[A-Za-z]+")
POWER_OF_SUM = re.compile(r"\([^()]*[A-DF-HJ-Za-df-hj-z][^()]*\)\s*\^\s*\{?\s*(?:\d{3,}|[3-9]\d)")
"""`(1+x)^{99}`, which math-verify multiplies out; e and i are numbers."""
LONG_NUMBER, LARGE = re.compile(r"\d{40}"), re.compile(r"\d{40}|[!^]")
LISTED = 20
"""So many commas more than the gold answer has make a list that cannot be equal to it."""
OR = re.compile(r"\bor\b")
SIDE_BY_SIDE = re.compile(r"\d\s+\d|\d\{\d|(?<![\w}\]^])\{\d+\}\s*\{?\d")
"""`16 2`, `16{2}`, `{16}{2}`."""
SCRIPT = re.compile(r"\s*[_^]\s*(?:\{[^{}]*\}|-?\w|\\[A-Za-z]+)")
ARGUMENTS = re.compile(r"\\[A-Za-z]+(?:\[[^][]*\])?((?:\s*\{[^{}]*\})+)")
"""What a command takes, `\\frac {1} {2}`."""
MIXED = re.compile(r"\d+ \d+/\d+")
DIVISION = re.compile(r"[/÷]|\\d?frac|\\div")


def is_too_hard(text: str) -> bool:
    """Whether comparing it could take unbounded time: depth, power towers, huge factorials and exponents."""
    depth = deepest = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    high = any(int(above[:9]) * math.log10(int(base[:9]) or 1) > EXPONENT for base, above in TOWER.findall(text))
    return len(text) > LENGTH or deepest > DEPTH or high or HUGE.search(text) is not None


def asks_too_much(answer: str, gold: str) -> bool:
    """Whether an answer has a power to be multiplied out or a number to be factored, and the gold answer has none."""
    answer, gold = COMMAND.sub("", answer), COMMAND.sub("", gold)
    power = POWER_OF_SUM.search(answer) and not POWER_OF_SUM.search(gold)
    return bool(power or (LONG_NUMBER.search(answer) and not LARGE.search(gold)))


def lists_numbers(answer: str, gold: str) -> bool:
    """Whether an answer lists numbers where the gold answer has one, or many fewer.

    math-verify adds numbers that stand side by side, so that the numbers of a problem were often its answer.
    """
    if answer.count(",") > gold.count(",") + LISTED or (OR.search(answer) and parse_number(gold)):
        return True
    flat = SCRIPT.sub("x", MIXED.sub("0", THOUSANDS.sub("0", answer)))
    for _ in range(DEPTH):
        flat, found = ARGUMENTS.subn(lambda command: "x" + re.sub(r"[{}\s]*[{}][{}\s]*", "|", command[1]), flat)
        if not found:
            break
    return SIDE_BY_SIDE.search(flat) is not None


def is_unfinished(answer: str, gold: str) -> bool:
    """Whether an answer that is right is a division that is not carried out: `4/2` where the gold answer is whole.

    Both are normalised; `36 = 72/2` has been carried out.
    """
    number = parse_number(gold)
    if number is None or number[0].denominator != 1:
        return False
    worked_out = (parse_number(side.strip()) for side in answer.split("=") if not DIVISION.search(side))
    return all(side is None or side[0] != number[0] for side in worked_out) and bool(DIVISION.search(answer))
