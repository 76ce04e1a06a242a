r"""The answer within a sentence: of "12, not 10" it is 12, of "12 out of 20" too.

A sentence that announces an answer says it first, so the mathematics at its beginning counts. Where it begins with
words ("the number of ways is 12"), what stands behind the last "is" does, and else the last formula or number. What a
sentence takes back ("not 10", "instead of 10", "previously 10") never does.
"""

from __future__ import annotations

import re

__all__ = [
    "FORMULA",
    "answer_in_sentence",
    "bare_answer",
    "last_formula_or_numbers",
    "reads_as_formula",
    "strip_delimiters",
    "work_out",
]

FORMULA = re.compile(
    r"(?<!\\)\$\$(.{1,2000}?)\$\$|(?<!\\)\$((?:\\\$|[^$]){1,2000})\$(?!\d)|\\\((.{1,2000}?)\\\)|\\\[(.{1,2000}?)\\\]",
    re.DOTALL,
)
WORD = re.compile(r"(?<![\\A-Za-z{])[A-Za-z]{2,}")
POWER_OF_TEN = r"(?:\s*(?:[×*x]|\\times|\\cdot)\s*10\s*(?:\^\s*(?:\{-?\d{1,3}\}|-?\d{1,3})|[⁻⁰¹²³⁴-⁹]+))?"
NUMBER = (
    r"(?:(?:(?<![\w)}])[-−]\s*)?(?:[$€£]\s?)?(?<![A-Za-z_^{\d])"
    r"(?:\\[dt]?frac\{[^{}]{1,50}\}\{[^{}]{1,50}\}|\d{1,9} \d{1,3}/\d{1,3}(?![\d/])"
    rf"|(?:(?:\d{{1,3}}(?:,\d{{3}})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)(?:/\d+)?{POWER_OF_TEN}))"
)
NUMBERS = re.compile(rf"{NUMBER}(?:(?:\s*,(?:\s*(?:and|or)\b)?|\s+(?:and|or)\b)\s*{NUMBER})*")
ROW = re.compile(rf"{NUMBER}(?:[\s;|]+{NUMBER}){{2,}}")
"""Three numbers or more with nothing between them, one on a line perhaps: a list, of which the last is no answer."""
UNIT = re.compile(r"\\(?:text|mbox|textbf|mathrm)\{[^{}]*\}|\b(?:and|or)\b|(?<=[\d}$%])(?:\s+[A-Za-z]{2,}){1,3}\.?$")
COPULA = re.compile(r"\b(?:is|are|equals?|be)\b|[=:≈]|\\approx", re.IGNORECASE)

TERMS = (
    "pi|sqrt|exp|ln|log|sin|cos|tan|infinity|theta|negative|minus|and|or"
    "|hundred|thousand|million|billion|trillion|dozen"
)
MATHEMATICS = re.compile(
    rf"(?:\s*(?:\\[A-Za-z]+|\\.|(?:{TERMS})\b|(?![aI]\s+[A-Za-z]{{2}})(?<![A-Za-z'’])[A-Za-z](?![A-Za-z'’])"
    r"|\((?!\s*(?:not|or|and)\b)|(?<=\d):(?=\d)|\.(?=\d)"
    r"|[-\d+*/^_={}\[\])|<>!,%$€£√∛π∞≤≥≠≈±∪∩∈×÷·⋅−°²³¹⁰⁴-₎½⅓-⅞¼¾α-ω]))+",
    re.IGNORECASE,
)
"""Mathematics without words, from where it begins; "a" and "I" are words before another word."""
NEAR = 60
"""How far from a number the signs are that belong to it."""
UNFINISHED = re.compile(r"(?:[\s,;:=+*/^<—–-]|\b(?:and|or|minus|negative)\b)+$", re.IGNORECASE)
SYMBOLS = re.compile(r"[√∛π∞²³¹⁰⁴-₎½¼-¾⅓-⅞]|\\(?:sqrt|pi)|\b(?:pi|sqrt|exp)\b|[\w)]\^")
UNKNOWNS = re.compile(r"(?<![A-Za-z\\])[A-Za-z](?![A-Za-z])[^=,.]{0,40}=\s*[-\d]")
LEAD_IN = re.compile(
    r"(?:(?:[≈~]|\\approx\b)\s*|(?:approximately|about|around|roughly|exactly|precisely|just|simply|only|still|now|actually|indeed|therefore"
    r"|thus|then|clearly|equal to|given by|a total of"
    r"|(?:the )?(?:number|value|fraction|option|choice|letter|set|interval|point|ordered pair|expression))\b[\s,:]*)+",
    re.IGNORECASE,
)
COMPARISON = re.compile(r"(?:(?:greater|less|more|fewer|smaller|larger|higher|lower) than|between)\b", re.IGNORECASE)
CHOICE = re.compile(r"(?:\(([A-Z])\)|([A-Z])[).:](?!\d))(?:\s+(?!(?:or|and)\b)\S.*)?$")
GOES_ON = re.compile(
    rf"\s+(?:(?:to|by|over|times|plus|minus|choose|mod|divided by|multiplied by)\s+(?:the\s+)?{NUMBER}"
    r"|(?:squared|cubed|factorial|to the)\b|[A-Za-z]{1,15}[²³]?\s*[×*+/]\s*\d)"
)
"""Words that make what stands before them a part of something larger."""
LARGER_UNIT = (
    "years?|months?|weeks?|days?|hours?|hrs?|h|minutes?|mins?|feet|foot|ft|yards?|pounds?|lbs?|dollars?|meters?|metres?"
    "|m|kilometers?|km|kilograms?|kg|gallons?|remainder|R"
)
SECOND_PART = re.compile(
    rf"(?:(?:\s+[A-Za-z]+){{1,2}}(?:,?\s+(?:and|or)\s+|,\s+)|(\s+(?:{LARGER_UNIT})\s+))"
    rf"({NUMBER})(?![\d.,]|\s+(?:was|were|is|are|had)\b)"
)
OR = re.compile(r"\bor[\s,]*$")
OTHER = re.compile(rf"[^\d.;]{{0,60}}?({NUMBER})")
TAKEN_BACK = re.compile(
    r"[,;([—–]?\s*\b(?:(?:and|but)\s+)?(?:not|cannot|[a-z]{2,6}n['’]t|no longer|instead of|rather than"
    r"|as opposed to|previously|formerly|originally|unlike|out of)\s+"
    r"(?:(?:the|just|only|my|was|be|equals?|to|it|I|said|had|answered|wrote)\s+){0,3}"
    rf"(?:{FORMULA.pattern.replace('2000', '100')}|(?={NUMBER}){MATHEMATICS.pattern})[)\]]?",
    re.IGNORECASE | re.DOTALL,
)

WORDS_TAKEN_BACK = re.compile(r"[,;]?\s+\(?(?:not|instead of|rather than)\s\D*$", re.IGNORECASE)

WORKING = re.compile(r"(?<=\d)\s+\([^()]*[$=*×][^()]*\)$")
"""How an answer comes about, in brackets behind it: `$36 (12 x $3)`."""

WORKED_OUT = re.compile(
    r"(?=[\d().\s]*\d[)\s]*[-+*/×÷][\s(]*\d)[-+*/×÷\d().\s]+"
    rf",?\s+(?:that is|which (?:is|equals|makes)),?\s+(?={NUMBER})"
)
"""What is worked out before the answer: `12 * 3, that is 36`."""


def work_out(text: str) -> str:
    """A text without the working that it begins with, where it says what that comes to."""
    working = WORKED_OUT.match(text)
    return text[working.end() :] if working else text


def answer_in_sentence(sentence: str) -> str | None:
    """The answer within the sentence that announces it: all of it, what it begins with, what "is", or a few words."""
    if COMPARISON.match(sentence):
        return sentence
    sentence = LEAD_IN.sub("", sentence, count=1) if LEAD_IN.match(sentence) else sentence
    choice = CHOICE.match(sentence)
    if choice:
        return choice[1] or choice[2]
    kept = WORDS_TAKEN_BACK.sub("", TAKEN_BACK.sub("", WORKING.sub("", sentence))).strip()
    after_copula = COPULA.split(kept)[-1].strip()
    answer = bare_answer(kept) or leading_mathematics(kept) or bare_answer(after_copula)
    answer = answer or leading_mathematics(after_copula) or last_formula_or_numbers(kept)
    return answer or (kept or sentence if len(sentence.split()) <= 4 else None)


def leading_mathematics(text: str) -> str | None:
    """The mathematics that a text begins with; None where it begins with a word, or goes on with one ("3 times 4")."""
    run = MATHEMATICS.match(text)
    if not run:
        return None
    found = trim_mathematics(run[0])
    if not re.search(r"\d|\\[a-z]|[π∞½¼¾]|^[A-Za-z]$|\bpi\b", found):
        return None
    rest = text[len(run[0].rstrip()) :]
    if GOES_ON.match(rest):
        copula = list(COPULA.finditer(text))
        return leading_mathematics(text[copula[-1].end() :].strip()) if copula else text
    if re.match(r"\s+(?:more|less|fewer|greater|of)\b", rest) and ", " in found:
        found = found.rpartition(", ")[0]  # 12, 2 more than 10
    second = SECOND_PART.match(rest)
    if second:
        return f"{found}{second[0]}" if second[1] else f"{found},{second[2]}"
    other = OR.search(run[0]) and OTHER.match(rest)
    return f"{found},{other[1]}" if other else found


def trim_mathematics(run: str) -> str:
    """A run of mathematics without a bracket that does not close in it, and what leads to nothing."""
    unclosed: list[int] = []
    for index, character in enumerate(run):
        if character in "([":
            unclosed.append(index)
        elif character in ")]" and unclosed:
            unclosed.pop()
    run = run[: unclosed[0]] if unclosed else run
    return UNFINISHED.sub("", run).strip()


def bare_answer(text: str) -> str | None:
    """The text, if it is an answer and nothing else: a formula, one word, or a number with its unit."""
    formula = FORMULA.fullmatch(text)
    if formula:
        return strip_delimiters(formula)
    bare = UNIT.sub("", FORMULA.sub(" ", text))
    wordless = WORD.search(bare) is None and re.search(r"\.\s", bare) is None
    return text if text and "\n" not in text and (wordless or len(text.split()) == 1) else None


def last_formula_or_numbers(text: str) -> str | None:
    """The last formula or the last list of numbers, whichever ends later; nothing that is taken back."""
    text = TAKEN_BACK.sub("", text)
    formulas = [formula for formula in FORMULA.finditer(text) if reads_as_formula(strip_delimiters(formula))]
    numbers = list(NUMBERS.finditer(text))
    rows = [row for row in ROW.finditer(text) if numbers and row.end() == numbers[-1].end()]
    numbers = rows or numbers
    if formulas and (not numbers or formulas[-1].end() >= numbers[-1].end()):
        return strip_delimiters(formulas[-1])
    return widen(text, numbers[-1]) if numbers else None


def widen(text: str, number: re.Match[str]) -> str:
    """A number with the roots, powers and signs of the mathematics that it stands in: `10 - 2√5` of its 5.

    Of an equation in unknowns it is the whole, of which the number is only the right side.
    """
    begin = max(0, number.start() - NEAR)
    if not SYMBOLS.search(text, begin, number.end() + NEAR) and not UNKNOWNS.search(text, begin, number.end()):
        return number[0]
    for run in MATHEMATICS.finditer(text, begin):
        if run.start() <= number.start() < run.end():
            last = trim_mathematics(run[0].rpartition(", ")[2])
            if UNKNOWNS.search(last) and last.endswith(number[0]):
                return last
            return (SYMBOLS.search(run[0]) and trim_mathematics(run[0].rpartition("=")[2])) or number[0]
    return number[0]


def strip_delimiters(formula: re.Match[str]) -> str:
    """A formula without its delimiters."""
    return next(group for group in formula.groups() if group is not None).strip()


def reads_as_formula(text: str) -> bool:
    """Whether it is a formula, not the prose between two prices ("$7 and then $5")."""
    return len(WORD.findall(text)) <= 2
