"""How much a second attempt differs from the first: in its text, and in its final answer."""

from __future__ import annotations

from rapidfuzz.distance import Indel

from scorl.trajectory import Response

__all__ = ["answer_changed", "edit_ratio"]


def edit_ratio(first: str, second: str) -> float:
    """Characters to insert and delete between two texts, over the sum of their lengths (0: the same).

    Two empty texts are the same. Source: the edit-distance ratio of the paper's figures; with that normaliser
    it is the insert/delete distance, which the paper leaves open, as it does the level (characters here).

    >>> edit_ratio("7*3=21", "7*3=20")    # one character out, one in, of twelve
    0.16666666666666666
    """
    return float(Indel.normalized_distance(first, second))


def answer_changed(first: Response, second: Response) -> bool:
    """Whether the second attempt proposes another final answer.

    Where the verifier found no final answer in one of them, the stripped texts are compared instead.
    """
    before, after = (attempt.verdict and attempt.verdict.answer for attempt in (first, second))
    if before is None or after is None:
        return first.text.strip() != second.text.strip()
    return before != after
