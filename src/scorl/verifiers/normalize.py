r"""Light normalisation of answers, and the numbers among them: what needs no symbolic mathematics.

The policy (docs/grading.md): a unit, a currency sign, a percent sign and a degree sign say nothing about the
value (`28\%` = `28` != `0.28`); a comma before three digits is a thousands separator; a decimal of four or
more places equals the fraction that it rounds.
"""

from __future__ import annotations

import re
from fractions import Fraction

from scorl.verifiers.latex import write_latex
from scorl.verifiers.letters import ends_a_sum

__all__ = ["THOUSANDS", "normalize", "parse_number", "same_number"]

NOT_UNITS = (
    "and|or|pi|sqrt|sin|cos|tan|log|ln|exp|infinity|hundreds?|thousands?|millions?|billions?|trillions?|dozens?|half"
    "|thirds?|fourths?|quarters?|fifths?|tenths?|hundredths?|factorial|squared|cubed|mod|choose|plus|minus|times|over"
    "|by|to|divided|multiplied|not|if|is|for|(?-i:[abc]{2}(?<!cc)|[xyz]{2}|[br]h|rt|vt|pq)"
)
WORDS = r"\\(?:text|mbox|emph|textit|textbf|textnormal|textrm|mathrm|mathbf|operatorname|rm|bf)\s*\{([^{}]*)\}"
REWRITES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\\\(?=(?:left|right|frac|dfrac|tfrac|sqrt|text|pi|infty|cup|le|ge|pm)\b)", r"\\"),
        (r"\\left\b|\\right\b|\\displaystyle\b", ""),
        (r"\\begin\{(?:align|equation)\*?\}|\\end\{(?:align|equation)\*?\}", ""),
        (r"\{,\}|(?<=\d),\\!\s*(?=\d{3})", ","),
        (r"\\[!,;:>]|\\(?:q?quad)\b|\\ |~", " "),
        (r"\\\$|\$|[€£]|\\[()\[\]]", ""),
        (r"\\[dtc]frac", r"\\frac"),
        (r"\\frac\s*(\d)\s*(\d)(?!\d)", r"\\frac{\1}{\2}"),
        (r"\\frac\s*(\d)\s*\{", r"\\frac{\1}{"),
        (r"\\sqrt\s*(\w)", r"\\sqrt{\1}"),
        (r"\^\s*\{?\s*\\circ\s*\}?|°|\\degrees?\b", ""),
        (r"\\?%|\b(?:percent(?:age)?|pct|degrees?)\b", ""),
        (r"\\mathrm\{e\}", "e"),
        (r"\\(?:boldsymbol|bm|underline|displaystyle|mathsf|pmb)\s*\{([^{}]*)\}", r"\1"),
        (
            r"\\textcolor\s*\{\w+\}\s*|\\color\s*\{\w+\}\s*|\\(?:bf|rm|it|bfseries|boldmath|[lL]arge|LARGE|[hH]uge|small)\b(?!\s*\{)",
            "",
        ),
        (WORDS, r" \1 "),
        (r"(?i)^[a-z, ]{0,60}\b(?:answer\s*:|is|equals)\s+(?=[-+\d\\(.])", ""),
        (r"(?i)\s+is (?:the|my) (?:final |correct )?answer[.\s]*$", ""),
        (r"(?i)(?:(?<=:\d\d)\s?|(?<=\d)\s+)(?:[ap]m\b|[ap]\.\s?m\b\.?)", ""),
        (r"\\pmod\s*(\d+)", r"\\pmod{\1}"),
        (r"\*\*|[\x00-\x1f]", " "),
        (r"\s+", " "),
        (r"^\{([^{}]*)\}$", r"\1"),
    )
)
POWER = r"(?:\s?\^\s?\{?[23]\}?|\{?[23²³]\}?)?"
UNIT = re.compile(
    rf"(?:(?<=[\d}}])|(?<=\\pi))(?:(?:\s(?!(?i:{NOT_UNITS})\b)[A-Za-z]{{2,}}\.?{POWER}(?:/[a-z]+)?){{1,3}}"
    rf"|\s?(?:[cmk]?m|[km]?g|ml|mi|ft|[kc]?m/s|ft/s|km/h|mph|hours?|minutes?|dollars?|cents?){POWER})$"
)
NAME = re.compile(r"[A-Za-z](?:_\{?\w{1,9}\}?)?(?:\([a-z]\))?")
ARITHMETIC = re.compile(r"(?:[\d\s.+\-*/()×÷]|\\times|\\cdot|\\div)+")
APPROXIMATELY = re.compile(r"\\approx|≈")
CHOICE = re.compile(r"\(\s*([A-Z])\s*\)")
DECIMAL = r"(?:\d+(?:\.\d*)?|\.\d+)"
THOUSANDS = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?:[, ]\d{3})+(?![\d,])")
SPACED = re.compile(r"(?<![\d.,])(?<!\d )[1-9]\d{0,2}(?: \d{3})+(?! ?[\d/])")
"""`10 000`, also within an expression."""
SCIENTIFIC = re.compile(r"(?<=\d)\s*(?:\\times|\\cdot|\*|×)\s*10\s*\^\s*\{?\s*(-?\d{1,3})\s*\}?$")
PLAIN = re.compile(rf"-?{DECIMAL}(?:[eE][+-]?\d{{1,3}})?")
RATIO = re.compile(rf"(-?)\(?(-?{DECIMAL})\)?/\(?(-?{DECIMAL})\)?")
REPEATING = re.compile(r"(-?)(\d{0,30})\.(\d{0,30})\\(?:overline|bar|dot)\s*\{?(\d{1,30})\}?")
FRACTION = re.compile(rf"(-?)(\d*)\\frac\{{(-?{DECIMAL})\}}\{{(-?{DECIMAL})\}}")
MIXED = re.compile(r"(-?)(\d+) (\d+)/(\d+)")


def normalize(answer: str) -> str:
    r"""One spelling for an answer: `\dfrac12` is `\frac{1}{2}`, `1,\!000` is `1,000`, `$18$ cm` is `18`."""
    answer = write_latex(answer)
    for pattern, replacement in REWRITES:
        answer = pattern.sub(replacement, answer)
    answer = SPACED.sub(lambda number: number[0].replace(" ", ""), answer.strip().rstrip(".,;: "))
    unit = UNIT.search(answer)
    if unit and not (unit[0] in ("g", "m") and ends_a_sum(answer[: unit.start()], unit[0])):
        answer = answer[: unit.start()].strip()
    choice = CHOICE.fullmatch(answer)
    if choice:
        return choice[1]
    return answer.lower() if re.fullmatch(r"[A-Za-z ]{2,}", answer) else answer


def parse_number(answer: str) -> tuple[Fraction, int | None] | None:
    r"""The number that a normalised answer is, as value and decimal places; None if it is no plain number.

    The places of a fraction are None. `x = 5`, `2 + 3 = 5` and `x \approx 5` are the number 5.
    """
    if len(answer) > 400:
        return None
    exact, *rounded = APPROXIMATELY.split(answer, maxsplit=1)
    *names, text = (side.strip() for side in exact.split("="))
    if not all(NAME.fullmatch(name) or ARITHMETIC.fullmatch(name) for name in names if name):
        return None
    if rounded and NAME.fullmatch(text):
        text = rounded[0].strip()
    text = THOUSANDS.sub(lambda digits: re.sub(r"[, ]", "", digits[0]), text)
    text = SCIENTIFIC.sub(r"e\1", text)
    if PLAIN.fullmatch(text):
        return Fraction(text), len(text.partition(".")[2])
    return parse_repeating(text) or parse_fraction(text)


def parse_repeating(text: str) -> tuple[Fraction, None] | None:
    r"""`0.1\overline{6}` as 1/6."""
    found = REPEATING.fullmatch(text)
    if not found:
        return None
    sign, whole, fixed, cycle = found.groups()
    value = int(whole or 0) + Fraction(int(fixed or 0), 10 ** len(fixed))
    value += Fraction(int(cycle), (10 ** len(cycle) - 1) * 10 ** len(fixed))
    return (-value if sign else value), None


def parse_fraction(text: str) -> tuple[Fraction, None] | None:
    r"""`3/4`, `\frac{3}{4}`, `1\frac{3}{4}`, `1 3/4` as a number."""
    ratio, latex, mixed = RATIO.fullmatch(text), FRACTION.fullmatch(text), MIXED.fullmatch(text)
    if ratio:
        sign, whole, above, below = ratio[1], "0", ratio[2], ratio[3]
    elif latex:
        sign, whole, above, below = latex[1], latex[2] or "0", latex[3], latex[4]
    elif mixed:
        sign, whole, above, below = mixed[1], mixed[2], mixed[3], mixed[4]
    else:
        return None
    if Fraction(below) == 0:
        return None
    value = int(whole) + Fraction(above) / Fraction(below)
    return (-value if sign else value), None


def same_number(one: tuple[Fraction, int | None], other: tuple[Fraction, int | None]) -> bool:
    """Whether two numbers are equal, or one is the other's rounding to four or more decimal places.

    It also has to have about three digits that count: 0.0000 is not 1/32768.
    """
    (left, left_places), (right, right_places) = one, other
    if left == right:
        return True
    places = left_places if right_places is None else right_places if left_places is None else None
    distance = abs(left - right)
    near = distance * 200 <= max(abs(left), abs(right))
    return places is not None and places >= 4 and near and distance * 2 * 10**places <= 1
