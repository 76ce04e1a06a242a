r"""Answers that are equations: what of `x = 5`, `f(2) = 5`, `2a = 5`, `x = 2, y = 3` has to be equal to what.

math-verify takes the right side of an equation for its value whatever stands on the left, so that `2a = 5` is 5. Here a
left side is dropped only where it names its value (`x`, `f(2)`, `AB`, "area"); every other side has to be equal to the
gold answer as well. Numbers and their sums before a plain number are not looked at (normalize.py): units are gone by
then, so that `50\% = 1/2` reads as wrong as `17 = 18`, which is 18. Names count against each other: `q_2 = 0` is not
`q_1 = 0`.
"""

from __future__ import annotations

import re

__all__ = ["differ_in_base", "differ_in_subscript", "pair_sides", "split_sides", "values"]

EQUALS = re.compile(r"(?<![<>!:=])=(?![=>])(?![^{}]*(?<!\\)\})")
COMPARED = re.compile(
    r"[<>]|\\(?:le|ge|leq|geq|lt|gt|ne|neq|in|approx|subset|cup|to|mapsto|begin|equiv|pmod|Rightarrow)\b|≈"
)
LETTER = (
    r"(?:[A-Za-z]|\\(?:alpha|beta|gamma|delta|epsilon|varepsilon|theta|lambda|mu|rho|sigma|phi|varphi|omega|Delta))"
)
SYMBOL = re.compile(rf"{LETTER}\s*(?:_\s*(?:\{{[^{{}}]{{1,20}}\}}|\w))?'*")
WORD = r"(?!abc\b|xyz\b|ab\b|xy\b)[A-Za-z]*[aeiouyAEIOUY][A-Za-z]*"
SEGMENT = r"(?:[A-Z]'?){2,4}"
NAME = re.compile(
    rf"\(\s*{SYMBOL.pattern}(?:\s*,\s*{SYMBOL.pattern}){{1,5}}\s*\)|{SYMBOL.pattern}\s*:\s*{SYMBOL.pattern}"
    rf"|\\frac\{{{SEGMENT}\}}\{{{SEGMENT}\}}|{SEGMENT}\s*[/:]\s*{SEGMENT}"
    rf"|{SYMBOL.pattern}(?:\s*\(\s*(?:-?\d+|{LETTER})\s*\))?"
    rf"|(?:[A-Zf-hp-t]|\\[a-z]+)'*(?:\^\{{?-1\}}?)?\s*\([^()=]{{0,40}}(?:\([^()]{{0,40}}\)[^()]{{0,40}})?\)"
    r"|\\?\|\s*(?:\\(?:vec|mathbf|overrightarrow)\s*\{?\s*[A-Za-z]{1,2}\s*\}?|v|u|w)\s*\\?\|"
    rf"|\|?\s*{SEGMENT}\s*\|?"
    r"|m?\s*\\(?:angle|triangle|widehat)\s*\{?[A-Z]{1,3}\}?|\\angle\s*[A-Za-z0-9]"
    r"|\\(?:overline|vec|mathbf|overrightarrow|hat|bar)\s*\{?[A-Za-z]{1,3}\}?|\[\s*[A-Z]{3,6}\s*\]"
    r"|\\(?:sin|cos|tan|cot|sec|csc)(?:\^\{?2\}?)?\s*\(?\s*"
    r"(?:[A-Z]|\\(?:alpha|beta|gamma|theta|phi)|\\angle\s*[A-Z]{1,3})\s*\)?"
    r"|\\frac\{d[a-z]\}\{d[a-z]\}|d[a-z]/d[a-z]"
    rf"|\\(?:lim|sum|prod|int|det|max|min|gcd|binom|begin)(?![A-Za-z]).*"
    rf"|(?:{WORD}\s+){{0,5}}[A-Za-z]{{3,}}(?<!abc)(?<!xyz)(?:\s*\([^()=]{{0,40}}\))?"
)
"""What names a value and is not an expression of unknowns; two capital letters are a segment."""
JOINT = re.compile(r"\s*(?:[,;]|\\q?quad\b|\band\b|\bor\b)(?:\s|[,;]|\\q?quad\b|\band\b|\bor\b)*(?![^(\[{]*[)\]}])")
VALUE_AT = re.compile(r"[A-Za-z]\s*\(\s*-?\d+\s*\)")
PROBABILITY = re.compile(r"\b(?:P|Pr)\s*\([^()]*[<>=][^()]*\)")
BRACKETS = re.compile(r"[(\[](.*)[)\]]", re.DOTALL)
BASED = re.compile(r"\(?\s*([0-9A-Fa-f][0-9A-Fa-f.\s]*)\)?\s*_\s*\{?\s*(\w+)\s*\}?")
WORDS = "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
BASES = {name: str(base) for base, name in enumerate(WORDS.split(), 2)}


def pair_sides(answer: str, gold: str) -> list[tuple[str, str]] | None:
    """The pairs (answer, gold answer) that all have to be equal, of two normalised answers; None if two names differ.

    Where neither is an equation, or both are in more than a name, it is the one pair that was given.
    """
    answer, gold = (PROBABILITY.sub("P", side) for side in (answer, gold))
    if COMPARED.search(answer + gold) or not EQUALS.search(answer + gold):
        return [(answer, gold)]
    system = pair_systems(answer, gold)
    if system is not None:
        return system or None
    left, right = split_sides(answer), split_sides(gold)
    left_values, right_values = values(left), values(right)
    if len(left) > 1 and len(right) > 1 and len(left_values) + len(right_values) > 2:
        return [(answer, gold)]  # two equations: math-verify compares their solutions
    if len(left) > 1 and len(right) > 1 and have_other_names(left[0], right[0]):
        return None
    if any(EQUALS.search(side) and len(JOINT.split(side)) > 1 for side in (answer, gold)):
        return [(answer, gold)]  # several equations
    return [(one, other) for one in left_values for other in right_values]


def pair_systems(answer: str, gold: str) -> list[tuple[str, str]] | None:
    """The pairs of values where one answer assigns values to several names; empty if they differ, else None."""
    left, right = read_system(answer), read_system(gold)
    if left and right:
        same = left.keys() == right.keys()
        return [(value, right[name]) for name, value in left.items()] if same else []
    system, other = left or right, gold if left else answer
    if system is None or EQUALS.search(other):
        return None
    bracketed = BRACKETS.fullmatch(other.strip())
    parts = JOINT.split(bracketed[1] if bracketed else other)
    assigned = [system[name] for name in (sorted(system) if left else system)]
    if len(parts) != len(assigned):
        return []
    if left and not bracketed:  # a bare list in the gold answer has no order
        return [(",".join(assigned), other)]
    return list(zip(assigned, parts, strict=True)) if left else list(zip(parts, assigned, strict=True))


def read_system(text: str) -> dict[str, str] | None:
    """The values of several different names, `x = 2, y = 3`; None for anything else."""
    joint = split_sides(text)
    if len(joint) == 2 and all(BRACKETS.fullmatch(side) for side in joint):  # (x, y) = (2, 3)
        names, given = ([part.strip() for part in JOINT.split(side[1:-1])] for side in joint)
        text = ",".join(map("=".join, zip(names, given, strict=False))) if len(names) == len(given) else text
    bracketed = BRACKETS.fullmatch(text.strip())
    parts = [split_sides(part) for part in JOINT.split(bracketed[1] if bracketed else text)]
    if len(parts) < 2 or not all(len(part) == 2 and NAME.fullmatch(part[0]) for part in parts):
        return None
    system = {spell_name(name): value for name, value in parts}
    return system if len(system) == len(parts) else None


def split_sides(text: str) -> list[str]:
    """The sides of an equation or of a chain of them; the text alone where there is none."""
    return [side.strip() for side in EQUALS.split(text)]


def values(sides: list[str]) -> list[str]:
    """The sides that have to be equal to the other answer: all but names; at least the last."""
    kept = [side for side in sides if side and not NAME.fullmatch(side)]
    return kept or [sides[-1]]


def have_other_names(left: str, right: str) -> bool:
    """Whether two sides are symbols, and not the same one."""
    both = all(SYMBOL.fullmatch(name) or VALUE_AT.fullmatch(name) for name in (left, right))
    return bool(both) and spell_name(left) != spell_name(right)


def spell_name(name: str) -> str:
    """A name without blanks and braces."""
    return re.sub(r"[\s{}]", "", name)


def differ_in_subscript(answer: str, gold: str) -> bool:
    """Whether both are symbols with subscripts, and not the same one: `x_2` for `x_1`."""
    return "_" in answer and "_" in gold and have_other_names(answer, gold)


def differ_in_base(answer: str, gold: str) -> bool | None:
    """Whether two numbers differ, one of them with its base, `2516_8`; None where neither has one.

    A base that one of them leaves out is the other's.
    """
    left, right = read_base(answer), read_base(gold)
    if left is None or right is None or not (left[1] or right[1]):
        return None
    same_base = left[1] == right[1] or not (left[1] and right[1])
    return left[0] != right[0] or not same_base


def read_base(text: str) -> tuple[str, str] | None:
    """The digits and the base of a number, "" without one; None if it is no number."""
    found = BASED.fullmatch(text.strip())
    digits = re.sub(r"\s", "", found[1] if found else text).upper()
    if not re.fullmatch(r"[0-9A-F]*[0-9][0-9A-F]*(?:\.[0-9A-F]+)?", digits):
        return None
    digits = digits.lstrip("0") or "0"
    if not found:
        return digits, ""
    base = BASES.get(found[2].lower(), found[2])
    return (digits, base) if base.isdecimal() else None
