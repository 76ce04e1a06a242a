r"""The verifier for mathematics: is the final answer of a response the gold answer?

Found (answers.py), spelled alike and compared as plain numbers (spelling.py), and only then compared by
math-verify in a worker process that may be killed (workers.py, symbolic.py). Whatever a response says gives
a verdict: reward 0 with a reason where there is no answer, or none that can be compared in time. Policies:
docs/grading.md.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from scorl.trajectory import Problem, Verdict
from scorl.verifiers.extract_answer import final_answer, reference
from scorl.verifiers.normalize import normalise, number, same_number
from scorl.verifiers.workers import Check, Outcome, compare_all

__all__ = ["judge", "judge_numbers", "verify"]

SECONDS = 3.0
"""Wall time for one symbolic comparison."""
LENGTH, DEPTH = 1000, 20
"""The longest answer and the deepest nesting of brackets that is compared symbolically."""
CACHED = 100_000

HUGE = re.compile(r"\d{6,}\)?\s*!|!\s*!|\^\s*\{?\s*\(?\s*-?\d{6,}|(?:\^[\s{(]*(?:\d+|[a-z])\s*){3}")
PROSE = re.compile(r"[A-Za-z\s\"'!?.,:;*-]*")
DECIMAL_COMMA = re.compile(r"(-?\d+),(\d+)")

_cache: dict[Check, Outcome] = {}


def verify(response: str, answer: str) -> Verdict:
    """The verdict on one response, `answer` being the gold answer; see `judge` for many."""
    return _judge([(final_answer(response), answer)])[0]


def judge(pairs: Sequence[tuple[Problem, str]]) -> list[Verdict]:
    """The verdicts on responses, in order; a task's judge where `Problem.answer` is the gold answer."""
    return _judge([(final_answer(response), str(problem.answer)) for problem, response in pairs])


def judge_numbers(pairs: Sequence[tuple[Problem, str]]) -> list[Verdict]:
    """The verdicts where every gold answer is a plain number: needs neither workers nor math-verify."""
    return [number_verdict(final_answer(response), str(problem.answer)) for problem, response in pairs]


def number_verdict(found: str | None, gold: str) -> Verdict:
    """The verdict on an answer that has to be a plain number."""
    settled = settle(found, gold)
    if isinstance(settled, Verdict):
        return settled
    return Verdict(0.0, "incorrect", "the final answer is not a plain number", settled.answer)


def _judge(pairs: Sequence[tuple[str | None, str]]) -> list[Verdict]:
    """What can be settled here is; the rest goes through the workers in one batch."""
    settled = [settle(answer, gold) for answer, gold in pairs]
    outcomes = compared({entry for entry in settled if isinstance(entry, Check)})
    return [entry if isinstance(entry, Verdict) else verdict(outcomes[entry], entry.answer) for entry in settled]


def settle(found: str | None, gold: str) -> Verdict | Check:
    """A verdict where light normalisation and arithmetic are enough, else what the workers compare."""
    if found is None or not found.strip():
        return Verdict(0.0, "unparsable", "no final answer" if found is None else "the final answer is empty")
    if len(found) > LENGTH:
        return Verdict(0.0, "unparsable", f"the final answer is longer than {LENGTH} characters", found[:LENGTH])
    wanted = reference(gold)
    answer, target = normalise(found), normalise(wanted)
    equal = settled_equality(answer, target)
    if equal is not None:
        return Verdict(1.0, "correct", "", shown(answer)) if equal else Verdict(0.0, "incorrect", "", shown(answer))
    if too_hard(answer):
        return Verdict(0.0, "unparsable", "too large or too deeply nested to be compared", answer)
    if too_hard(target):
        return Verdict(0.0, "error", "the gold answer is too large or too deeply nested to be compared", answer)
    return Check(target, answer, wanted, found)


def settled_equality(answer: str, gold: str) -> bool | None:
    """Whether two normalised answers are equal; None where that takes symbolic mathematics."""
    if answer and answer.replace(" ", "") == gold.replace(" ", ""):
        return True
    left, right = number(answer), number(gold)
    if left and right:
        return same_number(left, right)
    if right and PROSE.fullmatch(answer):
        return False
    left, right = left or decimal_comma(answer), right or decimal_comma(gold)
    return True if left and right and left[0] == right[0] else None


def decimal_comma(text: str) -> tuple[Fraction, int | None] | None:
    """`2,74` read as 2.74, which may make two answers equal but never unequal: it may be a list as well."""
    return number(DECIMAL_COMMA.sub(r"\1.\2", text)) if DECIMAL_COMMA.fullmatch(text) else None


def shown(answer: str) -> str:
    """The answer as it counts for the answer-change rate: numbers by their value."""
    value = number(answer)
    return answer if value is None else str(value[0])


def too_hard(text: str) -> bool:
    """Whether comparing it could take unbounded time: depth, power towers, huge factorials and exponents."""
    depth = deepest = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    return len(text) > LENGTH or deepest > DEPTH or HUGE.search(text) is not None


def compared(checks: set[Check]) -> dict[Check, Outcome]:
    """The outcomes of all checks, from the cache (the least recently used leave first) or the workers."""
    known = {check: _cache.pop(check) for check in checks if check in _cache}
    new = sorted(checks - known.keys())
    known |= zip(new, compare_all(new, SECONDS), strict=True)
    _cache.update(known)
    while len(_cache) > CACHED:
        del _cache[next(iter(_cache))]
    return known


def verdict(outcome: Outcome, answer: str) -> Verdict:
    """An outcome of the workers as a verdict."""
    word = "correct" if outcome.equal else outcome.problem or "incorrect"
    return Verdict(float(outcome.equal), word, outcome.reason, answer)
