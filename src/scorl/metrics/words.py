"""What happened in a trajectory as a word that is small enough to keep in a file, and the rates that it says.

01*       the first attempt wrong, the second right, with another answer
0w1*      the same, and between them a verification that said wrong; `r` right, `?` neither
0c1*      the same with a critique between them
1         one attempt, right

Metrics of correctness are made of words alone, whether of trajectories or of an evaluation's file.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from scorl.metrics.edits import answer_changed
from scorl.trajectory import Group, Trajectory

__all__ = [
    "CEILING",
    "Ending",
    "Terms",
    "attempts_right",
    "count_tokens",
    "count_until",
    "flip_terms",
    "outcomes",
    "spell",
    "tokens",
]

Terms = dict[str, tuple[float, float]]
"""What one trajectory adds to the numerator and the denominator of each metric."""

Ending = Literal["first", "last", "verification", "verifier"]
"""When a policy stops at inference: after its first attempt, after its last, as soon as its own verification says
right, or as soon as the verifier does."""

PAIR = (
    "accuracy_t2",
    "delta",
    "incorrect_to_correct",
    "correct_to_incorrect",
    "fix_rate",
    "keep_rate",
    "break_rate",
    "ceiling",
    "answer_changed",
)
"""The metrics that need a second attempt; without one they are undefined (0 / 0)."""

CEILING = "ceiling"
CLAIMS = {"right": "r", "wrong": "w"}


def spell(trajectory: Trajectory) -> str:
    """The word of a trajectory."""
    letters = []
    for response in trajectory.responses:
        if response.role == "attempt":
            letters.append(str(int(response.right)))
        elif response.role == "verification":
            answer = response.verdict.answer if response.verdict else None
            letters.append(CLAIMS.get(answer or "", "?"))
        else:
            letters.append("c")
    changed = len(trajectory.attempts) > 1 and answer_changed(*trajectory.attempts[:2])
    return "".join(letters) + "*" * changed


def outcomes(groups: Iterable[Group]) -> dict[str, str]:
    """The words of each problem's samples: `{"countdown-7": "01* 11"}`."""
    words: dict[str, list[str]] = {}
    for group in groups:
        for t in group:
            words.setdefault(t.problem.id, []).append(spell(t))
    return {problem: " ".join(samples) for problem, samples in words.items()}


def tokens(groups: Iterable[Group]) -> dict[str, str]:
    """How many tokens each response of each sample took: `{"countdown-7": "12+30 11+28"}`; empty: not known of all."""
    counts: dict[str, list[str]] = {}
    for group in groups:
        for t in group:
            if any(response.tokens is None for response in t.responses):
                return {}
            counts.setdefault(t.problem.id, []).append("+".join(str(response.tokens) for response in t.responses))
    return {problem: " ".join(samples) for problem, samples in counts.items()}


def count_tokens(group: Group) -> int:
    """How many tokens were sampled for a group; what branches share, and drafts that were not chosen, counts once."""
    dropped = sum(t.dropped_tokens for t in group if t.branch == 0)
    return dropped + sum(len(response.ids) for t in group for response in t.responses[t.branch > 0 :])


def attempts_right(word: str) -> list[bool]:
    """Of each attempt, whether it was right.

    >>> attempts_right("0w1*")
    [False, True]
    """
    return [letter == "1" for letter in word if letter in "01"]


def count_until(word: str, ending: Ending) -> int:
    """How many of a word's responses inference comes to.

    >>> [count_until("0w1r0*", ending) for ending in ("first", "last", "verification", "verifier")]
    [1, 5, 4, 3]
    """
    letters = word.rstrip("*")
    if ending == "first":
        return 1
    stop = {"last": "", "verification": "r", "verifier": "1"}[ending]
    place = letters.find(stop) if stop else -1
    return place + 1 if place >= 0 else len(letters)


def flip_terms(word: str) -> Terms:
    """Accuracies, flips and their rates, and where there are verifications how good these are."""
    right = attempts_right(word)
    terms: Terms = {f"accuracy_t{turn}": (r, 1) for turn, r in enumerate(right, 1)}
    if len(right) == 1:
        return terms | dict.fromkeys(PAIR, (0, 0))
    return terms | _pair_terms(right, word.endswith("*")) | _verification_terms(word)


def _pair_terms(right: Sequence[bool], changed: bool) -> Terms:
    first, second = right[:2]
    fixed, broken = second and not first, first and not second
    later = {f"delta_t{t}_t{t + 1}": (right[t] - right[t - 1], 1) for t in range(2, len(right))}
    return {
        "delta": (second - first, 1),
        **later,
        "incorrect_to_correct": (fixed, 1),
        "correct_to_incorrect": (broken, 1),
        "fix_rate": (fixed, not first),
        "keep_rate": (first and second, first),
        "break_rate": (broken, first),
        CEILING: (0, 1),
        "answer_changed": (changed, 1),
    }


def _verification_terms(word: str) -> Terms:
    """How often each verification is right, of all and of right and wrong attempts apart, and the accuracy of the
    attempt that stands where one that says right ends the conversation."""
    terms: Terms = {}
    right, attempt = False, 0
    for letter in word.rstrip("*"):
        if letter in "01":
            right, attempt = letter == "1", attempt + 1
        if letter in "01c":
            continue
        terms[f"accuracy_v{attempt}"] = (letter == "rw"[not right], 1)
        terms[f"recall_right_v{attempt}"] = (right and letter == "r", right)
        terms[f"recall_wrong_v{attempt}"] = (not right and letter == "w", not right)
    if terms:
        reached = word[: count_until(word, "verification")]
        terms["accuracy_selective"] = (attempts_right(reached)[-1], 1)
    return terms
