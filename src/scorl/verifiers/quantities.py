r"""Numbers with words: two quantities in a row, times of day, and what math-verify drops behind a `\text{}`."""

from __future__ import annotations

import re

__all__ = ["differ_in_half_day", "differ_in_quantities", "loses_words"]

HALF_DAY = re.compile(r"\d(?:\s|\\[,;: ]|~|\\[a-z]+\s*\{)*([ap])\.?\s?m\b", re.IGNORECASE)
QUANTITIES = re.compile(
    r"[\w\s.,:;]*\d\s(?!(?:and|abc|xyz)\b)(?:[A-Za-z]{3,}|ft|hr|cm|km|kg|lb|oz)\b[\w\s.,:;]*\d[A-Za-z\s.,:;]*", re.ASCII
)
TOKEN = re.compile(r"\d+(?:[.:]\d+)*|[A-Za-z]+")
TEXT = r"\\(?:text\w*|mbox|math(?:rm|it|bf))\s*\{"
JOINT = re.compile(rf",?\s*{TEXT}\s*(?:and|or)\s*\}}")
DROPPED = re.compile(rf"(?<=\S)\s*{TEXT}.*\}}(?:\^\d)?$", re.DOTALL)
r"""What math-verify takes for a unit: all from the first `\text{` on, where the answer ends in a brace."""
SIZE = re.compile(
    rf"\s*{TEXT}\s*(?:hundred|thousand|[mbtr]+illion|dozen|hal(?:f|ves)|third|fourth|fifth|tenth|hundredth)s?\b"
    rf"|\s*{TEXT}\s*(?:squared|cubed|factorial|mod)\b"
)
RELATED = re.compile(r"(?:[_^<>=]|\\(?:leq?|geq?|neq?|lt|gt|in)\b)[\s{(]*-?\d+")
"""A number that is a power, an index or a bound and no second value."""
PROPERTY = re.compile(r"\b(odd|even|prime|composite|rational|irrational|positive|negative)\b", re.IGNORECASE)


def differ_in_half_day(answer: str, gold: str) -> bool:
    """Whether one says a.m. and the other p.m."""
    left, right = (HALF_DAY.findall(side.lower()) for side in (answer, gold))
    return bool(left and right) and left != right


def differ_in_quantities(answer: str, gold: str) -> bool | None:
    """Whether two quantities in a row, `5 feet 3 inches`, are others; None where not both answers are such.

    math-verify would multiply them. Of a word only the first letter counts: `hr` is `hours`.
    """
    if not (QUANTITIES.fullmatch(gold) and QUANTITIES.fullmatch(answer)):
        return None
    left, right = ([token[:1] if token.isalpha() else token for token in read_tokens(side)] for side in (answer, gold))
    return left != right


def read_tokens(text: str) -> list[str]:
    """The numbers and the words of a text but "and"."""
    return [token for token in TOKEN.findall(text.lower()) if token != "and"]


def loses_words(answer: str, gold: str) -> bool:
    """Whether math-verify would drop more than a unit of one of two answers as they were written."""
    properties = [set(map(str.lower, PROPERTY.findall(side))) for side in (answer, gold)]
    if all(properties) and properties[0] != properties[1]:
        return True
    dropped = (DROPPED.search(JOINT.sub(",", side.strip(" $.\n"))) for side in (answer, gold) if "{" in side)
    return any(tail and (SIZE.match(tail[0]) or re.search(r"\d", RELATED.sub("", tail[0]))) for tail in dropped)
