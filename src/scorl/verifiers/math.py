r"""The verifier for mathematics: is the final answer of a response the gold answer?

It is extracted (extract_answer.py), normalised and compared as a plain number (normalize.py), and only then compared
by math-verify in a worker process that may be killed (workers.py, symbolic.py). Whatever a response says gives a
verdict: reward 0 with a reason where there is no answer, or none that can be compared in time. Policies:
docs/grading.md.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from hashlib import blake2b
from typing import NamedTuple

from scorl.trajectory import Problem, Verdict
from scorl.verifiers.echo import repeats
from scorl.verifiers.equations import differ_in_base, differ_in_subscript, pair_sides
from scorl.verifiers.extract_answer import extract_answer, extract_reference
from scorl.verifiers.letters import is_same_choice, tell_cases_apart
from scorl.verifiers.normalize import normalize, parse_number, same_number
from scorl.verifiers.quantities import differ_in_half_day, differ_in_quantities, loses_words
from scorl.verifiers.refuse import LENGTH, asks_too_much, is_too_hard, is_unfinished, lists_numbers
from scorl.verifiers.workers import Check, CheckResult, compare_all

__all__ = ["judge", "judge_answers", "judge_numbers", "name_answer", "normalize_reference", "verify"]

SECONDS = 3.0
"""Wall time for one symbolic comparison."""
CACHED = 100_000

PROSE = re.compile(r"[A-Za-z\s\"'!?.,:;*-]*")
CHOICE = re.compile(r"(?:\(\s*([A-Z])\s*\)|([A-Z])\s*[.:)])\s*(?!or\b|and\b|,)\S.*")
"""A choice with its text, `(B) 12`, which a gold answer `B` asks for."""
BLANK = re.compile(r"(?<!\d) | (?!\d)")
"""A blank that says nothing; between two digits it makes two numbers of one."""
DECIMAL_COMMA = re.compile(r"(-?\d+),(\d+)")


class Checks(NamedTuple):
    """An answer, and the comparisons that all have to hold for it."""

    answer: str
    checks: tuple[Check, ...]


_cache: dict[bytes, CheckResult] = {}
"""By a digest of the check, so that long answers take no more memory than short ones."""


def verify(response: str, answer: str) -> Verdict:
    """The verdict on one response, `answer` being the gold answer; see `judge` for many."""
    return judge_answers([(extract_answer(response), answer)])[0]


def judge(pairs: Sequence[tuple[Problem, str]]) -> list[Verdict]:
    """The verdicts on responses, in order; `Problem.answer` is the gold answer."""
    asked = [(extract_answer(response), str(problem.answer)) for problem, response in pairs]
    return [
        Verdict(0.0, "incorrect", "repeats the problem", verdict.answer)
        if verdict.reward and answer and is_echo(answer, gold, problem)
        else verdict
        for verdict, (answer, gold), (problem, _) in zip(judge_answers(asked), asked, pairs, strict=True)
    ]


def is_echo(answer: str, gold: str, problem: Problem) -> bool:
    """Whether an answer stands in the problem and is right only because math-verify worked it out."""
    left, right = normalize(answer), normalize_reference(gold)
    asked = problem.prompt[-1]["content"] if problem.prompt else ""
    settled = compare_lightly(left, right) and not is_unfinished(left, right)
    # A problem has the units and signs of currency that a normalised answer has lost.
    return not settled and (repeats(left, right, asked) or repeats(answer, right, asked))


def normalize_reference(gold: str) -> str:
    """The answer within a gold answer, in one spelling."""
    return normalize(extract_reference(gold))


def judge_numbers(pairs: Sequence[tuple[Problem, str]]) -> list[Verdict]:
    """The verdicts where every gold answer is a plain number: needs neither workers nor math-verify."""
    return [judge_number(extract_answer(response), str(problem.answer)) for problem, response in pairs]


def judge_number(answer: str | None, gold: str) -> Verdict:
    """The verdict on an answer that has to be a plain number."""
    settled = settle(answer, gold)
    if isinstance(settled, Verdict) and not (settled.reward and is_undone(answer or "", gold)):
        return settled
    return Verdict(0.0, "incorrect", "the final answer is not a plain number", settled.answer)


def is_undone(answer: str, gold: str) -> bool:
    """Whether a right answer leaves its division to the grader."""
    return is_unfinished(normalize(answer), normalize_reference(gold))


def judge_answers(pairs: Sequence[tuple[str | None, str]]) -> list[Verdict]:
    """The verdicts on pairs of final and gold answer; what cannot be settled here goes through the workers."""
    settled = [settle(answer, gold) for answer, gold in pairs]
    results = compare_cached({check for entry in settled if isinstance(entry, Checks) for check in entry.checks})
    return [
        entry if isinstance(entry, Verdict) else make_verdict([results[check] for check in entry.checks], entry.answer)
        for entry in settled
    ]


def settle(answer: str | None, gold: str) -> Verdict | Checks:
    """A verdict where light normalisation and arithmetic are enough, else what the workers compare."""
    if answer is None or not answer.strip():
        return Verdict(0.0, "unparsable", "no final answer" if answer is None else "the final answer is empty")
    if len(answer) > LENGTH:
        return Verdict(0.0, "unparsable", f"the final answer is longer than {LENGTH} characters", answer[:LENGTH])
    reference = extract_reference(gold)
    left, right = normalize(answer), normalize(reference)
    if differ_in_half_day(answer, reference):
        return Verdict(0.0, "incorrect", "", left)
    pairs = find_open_pairs(left, right)
    if pairs and lists_numbers(left, right):
        return Verdict(0.0, "incorrect", "several answers for one", left)
    if not pairs:
        equal = pairs is not None
        return Verdict(float(equal), "correct" if equal else "incorrect", "", name_answer(left))
    if is_too_hard(left) or asks_too_much(left, right):
        return Verdict(0.0, "unparsable", "too large or too deeply nested to be compared", left)
    if is_too_hard(right):
        return Verdict(0.0, "error", "the gold answer is too large or too deeply nested to be compared", left)
    told_apart = [tell_cases_apart(one, other) for one, other in pairs]
    if told_apart == [(left, right)] and not loses_words(answer, reference):
        return Checks(left, (Check(right, left, reference, answer),))
    return Checks(left, tuple(Check(other, one, other, one) for one, other in told_apart))


def find_open_pairs(answer: str, gold: str) -> list[tuple[str, str]] | None:
    """The pairs that have to be equal, and that light comparison does not settle; None where one of them differs."""
    pairs = pair_sides(answer, gold)
    equal = compare_lightly(answer, gold)
    if equal and pairs is not None:
        return []
    if pairs is None or equal is False:
        return None
    compared = [equal] if pairs == [(answer, gold)] else [compare_lightly(*pair) for pair in pairs]
    return None if False in compared else [pair for pair, equal in zip(pairs, compared, strict=True) if equal is None]


def compare_lightly(answer: str, gold: str) -> bool | None:
    """Whether two normalised answers are equal; None where that takes symbolic mathematics."""
    if answer and BLANK.sub("", answer) == BLANK.sub("", gold):
        return not re.fullmatch("nan", gold, re.IGNORECASE)
    labelled = CHOICE.fullmatch(answer)
    if labelled and re.fullmatch("[A-Z]", gold):
        return gold in labelled.groups()
    if is_same_choice(answer, gold):
        return True
    for differ in (differ_in_base(answer, gold), differ_in_quantities(answer, gold)):
        if differ is not None:
            return not differ
    if differ_in_subscript(answer, gold):
        return False
    left, right = parse_number(answer), parse_number(gold)
    if left and right:
        return same_number(left, right)
    if right and PROSE.fullmatch(answer):
        return False
    left, right = left or parse_decimal_comma(answer), right or parse_decimal_comma(gold)
    return True if left and right and left[0] == right[0] else None


def parse_decimal_comma(text: str) -> tuple[Fraction, int | None] | None:
    """`2,74` read as 2.74, which may make two answers equal but never unequal: it may be a list as well."""
    return parse_number(DECIMAL_COMMA.sub(r"\1.\2", text)) if DECIMAL_COMMA.fullmatch(text) else None


def name_answer(answer: str) -> str:
    """The answer as it counts for the answer-change rate: numbers by their value."""
    number = parse_number(answer)
    return answer if number is None else str(number[0])


def compare_cached(checks: set[Check]) -> dict[Check, CheckResult]:
    """What comes of all checks, from the cache (the least recently used leave first) or the workers."""
    keys = {check: make_digest(check) for check in checks}
    results = {check: _cache.pop(key) for check, key in keys.items() if key in _cache}
    new = sorted(checks - results.keys())
    results |= zip(new, compare_all(new, SECONDS), strict=True)
    _cache.update((keys[check], result) for check, result in results.items())
    while len(_cache) > CACHED:
        del _cache[next(iter(_cache))]
    return results


def make_digest(check: Check) -> bytes:
    """The key of a check in the cache."""
    return blake2b(repr(tuple(check)).encode(), digest_size=16).digest()


def make_verdict(results: Sequence[CheckResult], answer: str) -> Verdict:
    """What came of an answer's checks, all of which have to be equal, as a verdict."""
    result = next((result for result in results if not result.equal), CheckResult(True))
    outcome = "correct" if result.equal else result.problem or "incorrect"
    return Verdict(float(result.equal), outcome, result.reason, answer)
