"""Judging countdown: steps such as `7*3=21 21-5=16` that reach a target from given numbers.

What counts as the answer: the *last run of steps* in the response. Steps belong to one run when nothing
stands between them but white space, punctuation, list marks and the joining words of `JOIN`; any other word
starts a new run. So a model may think aloud, check its first attempt and try again: what it wrote last is
judged.

A step is `a+b=c`, `a-b=c`, `a*b=c` or `a/b=c` in whole numbers. Results below zero are refused, and division
counts only where it is exact. Each given number and each result may be used once; they need not all be used.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from scorl.trajectory import Problem, Verdict
from scorl.verifiers.thoughts import remove_thoughts

__all__ = ["Step", "find_fault", "find_steps", "judge", "verify", "write_steps"]

Step = tuple[int, str, int, int]
"""`(7, "*", 3, 21)` is 7*3=21."""

SIGNS = str.maketrans(
    {"×": "*", "·": "*", "⋅": "*", "∗": "*", "÷": "/", "∕": "/", "−": "-", "–": "-", "→": " ", "⇒": " "}
)
LATEX = re.compile(r"\\(times|cdot|div)\b")
ARROW = re.compile(r"[-=]>")
BULLET = re.compile(r"(?m)^[ \t]*+[-*•][ \t]++")
TIMES = re.compile(r"(?<=\d)([ \t]?)[xX](?=[ \t]?\d)")
AROUND = re.compile(r"(?<![ \t])[ \t]*+([-+*/=])[ \t]*+")
DIGITS = 12
STEP = re.compile(
    rf"(?<![\d.+*/=-])(\d{{1,{DIGITS}}}+)([-+*/])(\d{{1,{DIGITS}}}+)=(-?\d{{1,{DIGITS}}}+)(?!\.?\d|[-+*/=])",
    re.ASCII,
)
JOIN = re.compile(r"(?:[\W_]|\b(?:and|then|so|ok|next|now|finally|step)\b|\b\d{1,2}[.):])*+", re.IGNORECASE)


def judge(pairs: Sequence[tuple[Problem, str]]) -> list[Verdict]:
    """The verdicts on responses, in order; `Problem.answer` is `{"numbers": [7, 3, 5], "target": 16}`."""
    return [verify(text, problem.answer["numbers"], problem.answer["target"]) for problem, text in pairs]


def verify(response: str, numbers: Sequence[int], target: int) -> Verdict:
    """Judge the last run of steps in a response; the reason names its first fault.

    Never raises, whatever the response is; the time is linear in its length.
    """
    steps = find_steps(remove_thoughts(response))
    if not steps:
        return Verdict(0.0, "unparsable", "no steps found")
    fault = find_fault(steps, numbers, target)
    if fault is None:
        return Verdict(1.0, "correct", answer=write_steps(steps))
    return Verdict(0.0, "incorrect", fault[1], answer=write_steps(steps))


def find_steps(response: str) -> list[Step]:
    """The last run of steps in a response; empty if there is none."""
    text = use_ascii_signs(response)
    run: list[Step] = []
    end = 0
    for match in STEP.finditer(text):
        if run and not JOIN.fullmatch(text, end, match.start()):
            run = []
        left, sign, right, result = match.groups()
        run.append((int(left), sign, int(right), int(result)))
        end = match.end()
    return run


def find_fault(steps: Sequence[Step], numbers: Sequence[int], target: int) -> tuple[int, str] | None:
    """The index and the description of the first faulty step; None if the steps reach the target.

    A last step that misses the target is the fault of that step.
    """
    available = list(numbers)
    for index, (left, sign, right, result) in enumerate(steps):
        for number in (left, right):
            if number not in available:
                return index, f"{number} is not available"
            available.remove(number)
        if result < 0:
            return index, f"{left}{sign}{right}={result} goes below zero"
        if not is_true(left, sign, right, result):
            return index, f"{left}{sign}{right}={result} is false"
        available.append(result)
    if steps[-1][3] != target:
        return len(steps) - 1, f"reaches {steps[-1][3]}, not {target}"
    return None


def write_steps(steps: Sequence[Step]) -> str:
    """Steps as an answer writes them: `7*3=21 21-5=16`."""
    return " ".join(f"{left}{sign}{right}={result}" for left, sign, right, result in steps)


def is_true(left: int, sign: str, right: int, result: int) -> bool:
    """Whether a step's arithmetic is true; division must be exact."""
    if sign == "/":
        return right != 0 and left == right * result
    return result == {"+": left + right, "-": left - right, "*": left * right}[sign]


def use_ascii_signs(response: str) -> str:
    """The response with ASCII signs and no blanks around them."""
    text = LATEX.sub(lambda match: "/" if match[1] == "div" else "*", response).translate(SIGNS)
    text = TIMES.sub(r"\1*", ARROW.sub(" ", text))
    return AROUND.sub(r"\1", BULLET.sub("", text))
