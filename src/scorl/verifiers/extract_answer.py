r"""Extracts the final answer of a response to a mathematics problem.

The policy, in this order (docs/grading.md has it with examples):

1. The last balanced `\boxed{}`, together with the boxes chained to it by nothing but commas, "and" or "or".
   A response with a box that never closes, and no other, has no final answer.
2. The last announcement: "the answer is ...", "Answer: ...", "#### ...".
3. A response that is an answer and nothing else: `$\frac{1}{2}$`, `42`, `18 apples`.
4. Last resort: the last formula, or the last number together with the list that it stands in ("10, 11, 12").

What a model thought between `<think>` and `</think>` is not part of its answer.
"""

from __future__ import annotations

import re

__all__ = ["extract_answer", "extract_reference", "last_box"]

TAIL = 10_000
"""Announcements, formulas and numbers are looked for in so many last characters; boxes everywhere."""

CHAIN = 20
"""At most so many boxes are read as one answer."""

BOX = re.compile(r"\\(?:boxed|fbox)\s*(?=\{)")
BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
LINK = re.compile(
    r"(?:[\s$,;.&]|\\[()\[\],;!\s]|\\(?:quad|qquad)\b|\\(?:text|mbox)\{[^{}]{0,40}\}|\b(?:and|or)\b"
    r"|\w+(?:_\w+)?\s*=)*"
)
ANNOUNCED = re.compile(
    r"(?:####|\banswer\b[^\n.:=]{0,60}?(?:\bis\b|:|=)|\banswer(?=\s*(?:\$|\\[\[(])))"
    r"(?!\s*(?:correct|right|wrong|incorrect|not)\b)",
    re.IGNORECASE,
)
SENTENCE_END = re.compile(
    r"\.(?=[\s*$]|\Z)(?!\s*\d)|\n|[,;]?\s+(?:since|because|so|which|where|when|as)\b", re.IGNORECASE
)
FORMULA = re.compile(
    r"(?<!\\)\$\$(.{1,2000}?)\$\$|(?<!\\)\$((?:\\\$|[^$]){1,2000})\$|\\\((.{1,2000}?)\\\)|\\\[(.{1,2000}?)\\\]",
    re.DOTALL,
)
WORD = re.compile(r"(?<![\\A-Za-z{])[A-Za-z]{2,}")
NUMBER = (
    r"(?:(?:(?<![\w)}])-\s*)?(?:[$€£]\s?)?(?<![A-Za-z_^{\d])"
    r"(?:\\[dt]?frac\{[^{}]{1,50}\}\{[^{}]{1,50}\}|(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)(?:/\d+)?))"
)
NUMBERS = re.compile(rf"{NUMBER}(?:(?:\s*,(?:\s*(?:and|or)\b)?|\s+(?:and|or)\b)\s*{NUMBER})*")
UNIT = re.compile(r"\\(?:text|mbox|textbf|mathrm)\{[^{}]*\}|\b(?:and|or)\b|(?<=[\d}$%])(?:\s+[A-Za-z]{2,}){1,3}\.?$")
COPULA = re.compile(r"\b(?:is|are|equals?|be)\b|[=:≈]|\\approx", re.IGNORECASE)
TOKEN = re.compile(r"<\|[^|<>]{1,40}\|>")


def extract_answer(response: str) -> str | None:
    """The final answer as the response spells it, or None where there is none."""
    text = TOKEN.sub("\n", response.rpartition("</think>")[2])
    if BOX.search(text):
        return last_box(text)
    text = text[-TAIL:].strip()
    return last_announced(text) or bare_answer(text) or last_formula_or_numbers(text)


def extract_reference(answer: str) -> str:
    """The answer within a data set's reference answer: its box, what follows `####`, else all of it."""
    boxed = last_box(answer)
    return answer.rpartition("####")[2] if boxed is None else boxed


def last_box(text: str) -> str | None:
    r"""The content of the last balanced `\boxed{}`, joined by commas with the boxes chained to it."""
    closing = matching_braces(text)
    spans = [(box.start(), box.end() + 1, closing[box.end()]) for box in BOX.finditer(text) if box.end() in closing]
    if not spans:
        return None
    chain = [spans.pop()]
    while spans and len(chain) < CHAIN and are_linked(text, spans[-1][2] + 1, chain[0][0]):
        chain.insert(0, spans.pop())
    return ",".join(dict.fromkeys(text[start:end].strip() for _, start, end in chain))


def are_linked(text: str, start: int, end: int) -> bool:
    """Whether nothing but commas, "and" or "or" stands between two positions; never where boxes nest."""
    return start <= end <= start + 200 and LINK.fullmatch(text, start, end) is not None


def matching_braces(text: str) -> dict[int, int]:
    """Where each balanced brace closes: position of `{` to position of its `}`; one pass, any length."""
    open_braces: list[int] = []
    closing: dict[int, int] = {}
    for brace in BRACE.finditer(text):
        if brace.group() == "{":
            open_braces.append(brace.start())
        elif brace.group() == "}" and open_braces:
            closing[open_braces.pop()] = brace.start()
    return closing


def last_announced(text: str) -> str | None:
    """What follows the last announcement of an answer."""
    for match in reversed(list(ANNOUNCED.finditer(text))):
        after = text[match.end() :].lstrip(" *_:\n\t")
        formula = leading_formulas(after)
        sentence = SENTENCE_END.split(after, maxsplit=1)[0].strip(" *_\"'`")
        if formula or sentence:
            return formula or answer_in_sentence(sentence)
    return None


def answer_in_sentence(sentence: str) -> str | None:
    """The answer within the sentence that announces it: all of it, what "is", a number, or a few words."""
    after_copula = COPULA.split(sentence)[-1].strip()
    answer = bare_answer(sentence) or bare_answer(after_copula) or last_formula_or_numbers(sentence)
    return answer or (sentence if len(sentence.split()) <= 4 else None)


def leading_formulas(text: str) -> str | None:
    """The formulas that a text begins with, joined by commas where they are linked: `$1$ and $2$`."""
    formulas: list[str] = []
    end = 0
    for formula in FORMULA.finditer(text):
        if not are_linked(text, end, formula.start()) or not reads_as_formula(strip_delimiters(formula)):
            break
        formulas.append(strip_delimiters(formula))
        end = formula.end()
    return ",".join(formulas) or None


def strip_delimiters(formula: re.Match[str]) -> str:
    """A formula without its delimiters."""
    return next(group for group in formula.groups() if group is not None).strip()


def reads_as_formula(text: str) -> bool:
    """Whether it is a formula, not the prose between two prices ("$7 and then $5")."""
    return len(WORD.findall(text)) <= 2


def bare_answer(text: str) -> str | None:
    """The text, if it is an answer and nothing else: a formula, one word, or a number with its unit."""
    formula = FORMULA.fullmatch(text)
    if formula:
        return strip_delimiters(formula)
    bare = UNIT.sub("", FORMULA.sub(" ", text))
    wordless = WORD.search(bare) is None and re.search(r"\.\s", bare) is None
    return text if text and "\n" not in text and (wordless or len(text.split()) == 1) else None


def last_formula_or_numbers(text: str) -> str | None:
    """The last formula or the last list of numbers, whichever ends later."""
    formulas = [formula for formula in FORMULA.finditer(text) if reads_as_formula(strip_delimiters(formula))]
    numbers = list(NUMBERS.finditer(text))
    if formulas and (not numbers or formulas[-1].end() >= numbers[-1].end()):
        return strip_delimiters(formulas[-1])
    return numbers[-1].group() if numbers else None
