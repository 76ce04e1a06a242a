r"""Whether an answer is the problem once more: `\boxed{2+3}` where "What is 2+3?" was asked, however it is spelled.

Both are read as tokens without what says nothing: brackets that hold no sum, signs of products, `\left`, the difference
between `\frac{1}{2}` and `1/2`. An answer that leaves nothing to be worked out is no echo.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise, takewhile

from scorl.verifiers.equations import split_sides, values
from scorl.verifiers.latex import write_latex
from scorl.verifiers.normalize import WORDS, parse_number

__all__ = ["repeats"]

SETTLED = (
    "pi|infty|alpha|beta|gamma|delta|epsilon|varepsilon|theta|lambda|mu|rho|sigma|tau|phi|varphi|omega|Delta|Omega"
    "|emptyset|varnothing|circ|text|mathrm|mathbb|mathbf|mathcal|quad|qquad|[lg]eq?|[lg]t|neq?|in|notin|to|pm|mp|cup"
    "|subset|subseteq|approx|equiv|cdots|[lc]?dots|[lr]brace|[lr]angle|overline|overrightarrow|bar|vec|hat|dot|angle"
    "|triangle|perp|parallel|prime|begin|end|hline|mapsto|(?:long)?rightarrow|Rightarrow|land|lor|vee|neg"
)
"""Commands that leave nothing to be worked out: constants, symbols, relations, formatting."""
SETTLE = (
    (re.compile(r"\\frac\s*\{(?:\d+|\d*\s*\\pi)\}\s*\{\d+\}|(?:\d+|\d*\s*\\pi)\s*/\s*\d+"), "0"),
    (re.compile(r"\^\s*\{?\s*\\circ\s*\}?"), ""),
    (re.compile(r"\\(?:[lg]eq?|[lg]t|neq?|in|notin|to|approx|equiv)(?![A-Za-z])|\b(?:or|and)\b"), ","),
    (re.compile(r"\\begin\s*\{(?:[^vV{}]?matrix|array)\}"), "["),
    (re.compile(r"\\end\s*\{(?:[^vV{}]?matrix|array)\}"), "]"),
)
r"""Fractions of numbers and of `\pi`, which are numbers themselves, degrees, relations, the frames of matrices."""
OPERATION = re.compile(
    r"[+*/^=!×÷·|]|(?<=[\w)}])\s*-|-\s*[({]|\)\s*\(|\]\s*\[|\d\s*(?=[A-Za-z([])|(?<![A-Za-z\\])[a-z]{2,}\s*\("
    rf"|matrix|\\\}}\s*\\cup|\\(?!(?:{SETTLED})(?![A-Za-z]))[A-Za-z]+"
)
REWRITES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (WORDS, r" \1 "),
        (r"\\\\", " "),
        (r"\\\$|[€£]|\\?%|\^\s*\{?\s*\\circ\s*\}?|\\degrees?\b", " "),
        (r"(?<=\d)(?:\{,\}|,(?:\\!\s*)?)(?=\d{3}(?!\d))", ""),
        (r"(?<![\d.])\.(?=\d)", "0."),
        (r"(\.\d*[1-9])0+(?![\d.])", r"\1"),
        (r"-\s*-\s*(\d+(?:\.\d+)?|[A-Za-z])", r"-(-\1)"),
        (r"\{([^{}]*)\\choose(?![A-Za-z])([^{}]*)\}", r"\\binom{\1}{\2}"),
        (r"^\s*(\w+)\s*\\choose(?![A-Za-z])\s*(\w+)\s*$", r"\\binom{\1}{\2}"),
        (r"\\leq?(?![A-Za-z])", "≤"),
        (r"\\geq?(?![A-Za-z])", "≥"),
        (r"\\lt(?![A-Za-z])", "<"),
        (r"\\gt(?![A-Za-z])", ">"),
        (r"\$|\\[()\[\]]", " $ "),
        (r"\\(?:left|right|[bB]igg?[lr]?|displaystyle|limits|q?quad)(?![A-Za-z])|\\[,;:! ]|~", " "),
        (r"\\(?:times|cdot|ast)(?![A-Za-z])|\*", " "),
        (r"\\div(?![A-Za-z])", "/"),
        (r"\\(?:[lr]?vert|mid)(?![A-Za-z])", "|"),
        (r"\\[dtc]?(frac|binom)(?![A-Za-z])", r"\\\1 "),
        (r"\\(frac|binom)\s*(\d)\s*(?=\d)", r"\\\1{\2}"),
        (r"(?<!\\)\{", "("),
        (r"(?<!\\)\}", ")"),
    )
)
TOKEN = re.compile(
    r"\\[A-Za-z]+|\d+(?:\.\d+)?|[A-Za-z]{3,}|\b(?:a[nst]|b[ey]|i[fnst]|o[fnr]|to|[ckm]m|[km]g|ft)\b|\\.|\S", re.DOTALL
)
"""A command, a number, a word, a letter, a sign."""
SILENT = {*"()[]{},;$<>^ei", "pi", "pm", "mp"}
"""What a constant may have although the gold answer has none."""
GOES_ON = {"+", "-", "/", "^", "_"}
NOTHING = (["+", "0"], ["-", "0"], ["/", "1"], ["^", "1"])
ASKING = {"simplify", "evaluate", "compute", "calculate", "rationalize", "rationalise", "express", "write"}
WORKING = ASKING | {"solve", "factor", "expand"}
"""Words of problems that offer no choice."""
RELATIONS = {"=", "<", ">", "≤", "≥"}
JOINTS = ([","], ["or"], [",", "or"])
"""What stands between formulas that are offered for choice."""
BEFORE = 5
"""So many words before a formula may ask for its value: "Rationalize the denominator of"."""


def repeats(answer: str, gold: str, problem: str) -> bool:
    r"""Whether a right answer stands in a problem, not as a part of a longer expression, and leaves work to be done.

    The gold answer is none in any spelling of it with the same tokens: `1+x^2` for `x^2+1`. Nor is a constant that may
    be given or offered for choice, `\frac{1}{\sqrt{2}}` for `\frac{\sqrt{2}}{2}`; see `is_offered`, `is_choice`.
    """
    asked = spell(problem)
    golds = [spell_bare(side) for side in {gold, *values(split_sides(gold))}]
    known = [sorted(tokens) for tokens in golds]
    sides = values(split_sides(answer))
    if any(sorted(spell_bare(side)) in known for side in sides) or gives_gold(spell(answer), golds):
        return False
    shortest = min(golds, key=len)
    return any(all(stands_in(side, asked, shortest) for side in spelling) for spelling in ([answer], sides))


def stands_in(answer: str, asked: list[str], gold: list[str]) -> bool:
    """Whether one side of an answer has something to be worked out and stands in the problem."""
    tokens = spell_bare(answer)
    if not tokens or not is_operation(answer):
        return False
    count = len(tokens)
    for place in range(len(asked) - count + 1):
        if asked[place : place + count] != tokens:
            continue
        before, after = asked[max(0, place - 1) : place], asked[place + count : place + count + 1]
        longer = any(map(is_joined, before + after)) or after == ["!"]
        if not longer and not is_offered(tokens, gold, asked[:place]) and not is_choice(tokens, asked, place):
            return True
    return False


def gives_gold(answer: list[str], golds: list[list[str]]) -> bool:
    r"""Whether all that an answer compares or assigns stands in the gold answer: `x > 1+\sqrt{2}` for an interval."""
    sides = split(answer, {*RELATIONS, ",", "and", "or"})
    return len(sides) > 1 and all(len(side) < 2 or any(contains(gold, side) for gold in golds) for side in sides)


def split(tokens: list[str], marks: set[str]) -> list[list[str]]:
    """What stands between some of the tokens."""
    ends = [place for place, token in enumerate(tokens) if token in marks]
    return [tokens[start:end] for start, end in zip([0, *(end + 1 for end in ends)], [*ends, None], strict=True)]


def contains(tokens: list[str], part: list[str]) -> bool:
    """Whether a part stands in some tokens in one piece, and not in a longer expression."""
    for place in range(len(tokens) - len(part) + 1):
        around = tokens[max(0, place - 1) : place] + tokens[place + len(part) : place + len(part) + 1]
        if tokens[place : place + len(part)] == part and set(around) <= {*RELATIONS, *"()[],"}:
            return True
    return False


def is_choice(tokens: list[str], asked: list[str], place: int) -> bool:
    """Whether it is one of the formulas that a problem offers: joined by "or", or behind letters of choice."""
    if RELATIONS & set(tokens) or WORKING & {token.lower() for token in asked}:
        return False
    before = [token for token in asked[:place] if token not in "$)"]
    if {"A", "B"} <= set(asked) and before and before[-1] in {*"ABCDE"}:
        return True
    texts, here = split(asked, {"$"}), asked[:place].count("$")
    if here % 2 == 0 or texts[here] != tokens:
        return False
    joints = [*takewhile(JOINTS.__contains__, texts[here + 1 :: 2])]
    joints += takewhile(JOINTS.__contains__, texts[here - 1 :: -2])
    return any("or" in joint for joint in joints)


def is_operation(answer: str) -> bool:
    """Whether there is something to be worked out; a plain number comes here only with its division left undone."""
    if parse_number(answer) is None:
        for pattern, replacement in SETTLE:
            answer = pattern.sub(replacement, answer)
    return OPERATION.search(answer) is not None


def is_joined(token: str) -> bool:
    """Whether a token beside an expression belongs to it."""
    return token in GOES_ON or is_factor(token)


def is_factor(token: str) -> bool:
    """Whether it is a number or a letter."""
    return token[0].isdigit() or (len(token) == 1 and token.isalpha())


def is_offered(tokens: list[str], gold: list[str], before: list[str]) -> bool:
    r"""Whether it is a constant like the gold answer, and the words before it do not ask for its value.

    It is like it if it is no longer and has no other operation: `\sqrt{12}` for `2\sqrt{3}`.
    """
    words: list[str] = []
    for token in reversed(before):
        if len(words) == BEFORE or not (token in "$:" or (len(token) > 1 and token.isalpha())):
            break
        words += [token.lower()] * (token not in "$:")
    constant = all(token in "ei" for token in tokens if token[0].isalpha() and len(token) == 1)
    count, most = (sum(token not in "()[]{},;" for token in side) for side in (tokens, gold))
    signs = {token for token in tokens if not token[0].isdigit()} - SILENT
    product = any(after == "(" and (is_factor(sign) or sign == ")") for sign, after in pairwise(tokens))
    return constant and count <= most and signs <= set(gold) and not product and not ASKING & set(words)


def spell(text: str) -> list[str]:
    """The tokens of a formula, or of a text with formulas, without what says nothing."""
    text = write_latex(text)
    for pattern, replacement in REWRITES:
        text = pattern.sub(replacement, text)
    return join(nest(token.removeprefix("\\") for token in TOKEN.findall(text) if token != "\\"))


def spell_bare(text: str) -> list[str]:
    """The tokens of an answer without brackets around the whole, `+ 0` and `1 \\cdot`."""
    tokens = [token for token in spell(text) if token != "$"]
    while True:
        items = nest(tokens)
        if len(items) == 1 and isinstance(items[0], list):
            tokens = items[0]
        elif tokens[:1] == ["["] and tokens[-1] == "]" and not {",", "[", "]"} & set(tokens[1:-1]):
            tokens = tokens[1:-1]
        elif tokens[:2] == ["0", "+"] or (tokens[0:1] == ["1"] and len(items) > 1 and isinstance(items[1], list)):
            tokens = tokens[1 + (tokens[0] == "0") :]
        elif tokens[-2:] in NOTHING:
            tokens = tokens[:-2]
        elif tokens[-1:] == ["1"] and len(items) > 1 and isinstance(items[-2], list):
            tokens = tokens[:-1]
        else:
            return tokens


def nest(tokens: Iterable[str]) -> list[str | list[str]]:
    """Tokens with what stands in round brackets as lists, in which no bracket is left that says nothing."""
    open_groups: list[list[str | list[str]]] = [[]]
    for token in tokens:
        if token == "(":
            open_groups.append([])
        elif token == ")" and len(open_groups) > 1:
            group = open_groups.pop()
            open_groups[-1].append(join(group) if len(group) != 1 or isinstance(group[0], str) else group[0])
        else:
            open_groups[-1].append(token)
    first, *rest = open_groups
    return [*first, *(item for group in rest for item in ("(", *group))]


def join(items: Sequence[str | list[str]]) -> list[str]:
    r"""Items as tokens, without brackets that say nothing; `\frac{a}{b}` as `a / b`."""
    tokens: list[str] = []
    for place, item in enumerate(items):
        before, after = items[place - 1] if place else "", items[place + 1] if place + 1 < len(items) else ""
        if isinstance(item, list):
            kept = needs_brackets(item, tokens[-1] if tokens else "", after)
            tokens += ["(", *item, ")"] if kept else item
        elif item != "frac":
            tokens.append(item)
        if before == "frac":
            tokens.append("/")
    return tokens


def needs_brackets(group: list[str], before: str, after: str | list[str]) -> bool:
    """Whether brackets around some tokens say something."""
    if len(group) == 1 or (len(group) == 2 and len(group[0]) > 1 and group[0].isalpha()):
        return False
    if after != "^" and (group[1:] == ["!"] or (before == "/" and len(group) == 3 and group[1] == "^")):
        return False
    sums = any(token in "+-=<>|," for token in group)
    return not group or sums or after == "^" or before in ("/", "^", "_", "sqrt", "]")
