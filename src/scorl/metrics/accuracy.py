"""The metrics of self-correction (section 5 of the paper), over all problems.

Every metric is a sum over problems divided by another sum over problems: accuracy divides by the number of
samples, the fix rate by the number of wrong first attempts. A `Tally` keeps both sums per problem, so that
measuring is one division and a bootstrap one matrix product. The ceiling alone is made of two such ratios.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import comb
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from scorl.metrics.edits import edit_ratio
from scorl.metrics.words import CEILING, Ending, Terms, attempts_right, count_until, flip_terms, spell
from scorl.trajectory import Group, Response, Trajectory

__all__ = ["HEADLINES", "VERIFIED", "Tally", "edit_ratios", "measure", "ratios", "tally", "tally_outcomes"]

HEADLINES = {
    "@t1": "accuracy_t1",
    "@t2": "accuracy_t2",
    "Delta": "delta",
    "i->c": "incorrect_to_correct",
    "c->i": "correct_to_incorrect",
    "changed": "answer_changed",
}
"""The rates that are shown first, by their short names."""
VERIFIED = {"selective": "accuracy_selective", "verifier": "accuracy_v1"}
"""What is shown beside them of conversations with verifications."""


@dataclass(frozen=True)
class Tally:
    """Numerators and denominators per problem and metric, both float64 [problems, metrics]."""

    problems: tuple[str, ...]
    names: tuple[str, ...]
    top: NDArray[np.float64]
    bottom: NDArray[np.float64]

    def values(self) -> dict[str, float | None]:
        """Each metric over all problems; None where it is undefined."""
        values, defined = ratios(self.names, self.top.sum(axis=0), self.bottom.sum(axis=0))
        rows = zip(self.names, values.tolist(), defined.tolist(), strict=True)
        return {name: value if there else None for name, value, there in rows}


def ratios(
    names: Sequence[str], top: NDArray[np.float64], bottom: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The metrics of sums, [..., metrics] each, and where they are defined.

    The ceiling is f / (f + 1 - k), f the fix rate and 1 - k the break rate: the accuracy that more and more
    corrections with these rates would come to (arXiv 2508.16456).
    """
    defined = bottom > 0
    values = np.divide(top, bottom, out=np.zeros_like(top), where=defined)
    if CEILING in names:
        fix, broken, ceiling = (names.index(name) for name in ("fix_rate", "break_rate", CEILING))
        moved = values[..., fix] + values[..., broken]
        defined[..., ceiling] = defined[..., fix] & defined[..., broken] & (moved > 0)
        values[..., ceiling] = np.divide(values[..., fix], moved, out=np.zeros_like(moved), where=moved > 0)
    return values, defined


def measure(groups: Iterable[Group]) -> dict[str, float | None]:
    """The metrics of these groups, without intervals; docs/metrics.md defines each.

    Rates are fractions in [0, 1]; a metric is None where it is undefined (without a second attempt, say).
    """
    return tally(groups).values()


def tally(groups: Iterable[Group]) -> Tally:
    """The sums behind every metric.

    Raises:
        ValueError: there is no trajectory.
    """
    rows = [(t.problem.id, t) for group in groups for t in group]
    terms = _collect((problem, _terms(t)) for problem, t in rows)
    firsts: dict[str, dict[int, Response]] = {}  # branches share their sample's first attempt
    for problem, t in rows:
        firsts.setdefault(problem, {})[t.sample] = t.attempts[0]
    return _with_pairs(terms, [list(firsts[problem].values()) for problem in terms.problems])


def edit_ratios(groups: Iterable[Group]) -> dict[str, float]:
    """The mean edit-distance ratio of each problem's samples; none where there is no second attempt."""
    ratios: dict[str, list[float]] = {}
    for group in groups:
        for t in group:
            if len(t.attempts) > 1:
                ratios.setdefault(t.problem.id, []).append(edit_ratio(t.attempts[0].text, t.attempts[1].text))
    return {problem: round(fmean(values), 4) for problem, values in ratios.items()}


def tally_outcomes(
    words: Mapping[str, str],
    ratios: Mapping[str, float] | None = None,
    tokens: Mapping[str, str] | None = None,
    ending: Ending | None = None,
) -> Tally:
    """The sums behind the metrics of correctness, from what an evaluation's file keeps of each problem.

    Args:
        words: as `outcomes` writes them.
        ratios: as `edit_ratios` does.
        tokens: as `words.tokens` does.
        ending: where inference stops; adds `accuracy_final`, what that is above the first attempt's (`delta_final`),
            and `tokens_final` where tokens are known.
    """
    rows = []
    for problem, text in words.items():
        counts = tokens[problem].split() if tokens else []
        for sample, word in enumerate(text.split()):
            terms = flip_terms(word)
            if ratios:
                terms["edit_ratio"] = (ratios[problem], 1)
            if ending:
                terms |= _final_terms(word, counts[sample] if counts else None, ending)
            rows.append((problem, terms))
    return _collect(rows)


def _final_terms(word: str, tokens: str | None, ending: Ending) -> Terms:
    """Of the answer that inference ends with, and of the tokens that it takes."""
    if ending == "verification" and not set(word) & set("rw?"):  # older files do not say what was claimed
        return dict.fromkeys(("accuracy_final", "delta_final", "tokens_final"), (0, 0))
    reached = count_until(word, ending)
    right = attempts_right(word.rstrip("*")[:reached])
    terms: Terms = {"accuracy_final": (right[-1], 1), "delta_final": (right[-1] - right[0], 1)}
    if tokens:
        terms["tokens_final"] = (sum(map(int, tokens.split("+")[:reached])), 1)
    return terms


def _terms(trajectory: Trajectory) -> Terms:
    word, attempts = spell(trajectory), trajectory.attempts
    terms = flip_terms(word)
    pair = attempts[:2]
    terms["edit_ratio"] = (edit_ratio(pair[0].text, pair[1].text), 1) if len(pair) == 2 else (0, 0)
    terms["truncated"] = (sum(a.finish == "length" for a in attempts), len(attempts))
    responses = zip(trajectory.labels, trajectory.responses, strict=True)
    terms |= {f"tokens_{label}": _known(response.tokens) for label, response in responses}
    terms.setdefault("tokens_t2", (0, 0))
    if "accuracy_selective" in terms:
        terms["saved_tokens"] = _saved_tokens(trajectory)
    return terms


def _saved_tokens(trajectory: Trajectory) -> tuple[float, float]:
    """Those of the responses that inference does not come to, of all; undefined where a response's are not known."""
    counts = [response.tokens for response in trajectory.responses]
    spent = [count for count in counts if count is not None]
    return (sum(spent[len(trajectory.reached) :]), sum(spent)) if len(spent) == len(counts) else (0, 0)


def _known(number: int | None) -> tuple[float, float]:
    return (0, 0) if number is None else (number, 1)


def _with_pairs(tally: Tally, firsts: Sequence[Sequence[Response]]) -> Tally:
    """With what two first attempts are worth, of each problem's samples: as many responses as two attempts in turn."""
    if min(map(len, firsts)) < 2:
        return tally
    worth = np.array([_rate_pairs(samples) for samples in firsts])
    return Tally(
        tally.problems,
        (*tally.names, "pass_2", "majority_2"),
        top=np.hstack([tally.top, worth]),
        bottom=np.hstack([tally.bottom, np.ones_like(worth)]),
    )


def _rate_pairs(samples: Sequence[Response]) -> tuple[float, float]:
    """How often two of a problem's samples hold a right one, and how often their vote is right; a tie counts half.

    A sample without an answer has no vote, so that the other decides.
    """
    right = sum(attempt.right for attempt in samples)
    blank = sum(
        not attempt.right and (attempt.verdict is None or attempt.verdict.answer is None) for attempt in samples
    )
    wrong, pairs = len(samples) - right, comb(len(samples), 2)
    return 1 - comb(wrong, 2) / pairs, (comb(right, 2) + right * blank + right * (wrong - blank) / 2) / pairs


def _collect(rows: Iterable[tuple[str, Terms]]) -> Tally:
    clusters: dict[str, list[Terms]] = {}
    for problem, terms in rows:
        clusters.setdefault(problem, []).append(terms)
    if not clusters:
        raise ValueError("there is no trajectory to measure")
    names = tuple(next(iter(clusters.values()))[0])
    sums = np.array(
        [[[sum(t[name][k] for t in c) for name in names] for c in clusters.values()] for k in (0, 1)],
        dtype=np.float64,
    )
    return Tally(tuple(clusters), names, top=sums[0], bottom=sums[1])
