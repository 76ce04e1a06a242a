r"""Extracts the final answer of a response to a mathematics problem.

The policy, in this order (docs/grading.md has it with examples):

1. The last balanced `\boxed{}`, together with the boxes chained to it by nothing but commas, "and" or "or".
   A response with a box that never closes, and no other, has no final answer.
2. The last announcement: "the answer is ...", "Answer: ...", "#### ...".
3. A response that is an answer and nothing else: `$\frac{1}{2}$`, `42`, `18 apples`.
4. Last resort: the last formula, or the last number together with the list that it stands in ("10, 11, 12").

What a model thought between `<think>` and `</think>` is not part of its answer, and where `<answer>...</answer>`
stands, nothing else is. Which part of an announcing sentence counts: sentence.py.
"""

from __future__ import annotations

import re

from scorl.verifiers.sentence import (
    FORMULA,
    answer_in_sentence,
    bare_answer,
    last_formula_or_numbers,
    reads_as_formula,
    strip_delimiters,
    work_out,
)
from scorl.verifiers.thoughts import last_answer, remove_thoughts

__all__ = ["extract_answer", "extract_reference", "last_box"]

TAIL = 10_000
"""Announcements, formulas and numbers are looked for in so many last characters; boxes everywhere."""

CHAIN = 20
"""At most so many boxes are read as one answer."""

BOX = re.compile(r"\\(?:boxed|fbox|framebox)\s*(?=\{)")
BARE_BOX = re.compile(
    r"\\(?:boxed|fbox)(?=[\s\d\\+-])\s*((?:-\s*)?(?:\\[dtc]?frac\s*(?:\d|\{[^{}]{1,50}\}){2}|\\[A-Za-z]+(?:\{[^{}]{1,50}\})*"
    r"|\d[\d,]*(?:\.\d+)?(?:/\d+)?|[A-Za-z](?![A-Za-z])))"
)
r"""A box without braces, as in MATH's own solutions: `\boxed 5`, `\boxed3`, `\boxed\frac12`."""
DENIED = re.compile(r"\b(?:not|no longer|instead of|rather than|previously|formerly)\s+(?:\$|\\\()?\s*$", re.IGNORECASE)
BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
LINK = re.compile(
    r"(?:[\s$,;.&]|\\[()\[\],;!\s]|\\(?:quad|qquad)\b|\\(?:text|mbox)\{[^{}]{0,40}\}|\b(?:and|or)\b"
    r"|\w+(?:_\w+)?\s*=)*"
)
HEADING = (
    r"(?:step|part|case|method|approach|stage|phase|section|problem|question|exercise|example|solution|attempt)"
    r"[ \t]*#?\d"
    r"|\d{1,2}[.):][ \t]+[*_]*[a-z]{2}[^\n]*\n\s*\S"
    r"|(?!(?:pi|infinity|yes|no|true|false)\b)[a-z]{2,}(?:[ \t-]+[a-z]+){0,4}[*_:]*[ \t]*\n\s*\S"
)
"""A heading that more text follows: `Step 2: Add them up`, `2. Add them up`, `Conclusion`."""
ANNOUNCED = re.compile(
    rf"(?:####+(?!#|[ \t]*[*_]*(?:{HEADING}))"
    r"|\b(?:answer|(?:correct|right|best)\s+(?:option|choice|alternative))\b(?:"
    r"(?:(?!\bnot\b|\bcannot\b|n['’]t\b|\bwas\b)[^\n.:=]){0,60}?(?:\b(?:is|be|becomes|equals|remains)\b|:|=)"
    r"|(?=\s*(?:\$|\\[\[(]))))"
    r"(?!\s*(?:correct|right|wrong|incorrect|not|never|no\s+longer)\b)",
    re.IGNORECASE,
)
SUPERSEDED = re.compile(
    r"\b(?:previous|earlier|first|old|initial|original|former|prior|wrong|incorrect|false)\s+$", re.IGNORECASE
)
"""What stands before an announcement of an answer that holds no more."""
SENTENCE_END = re.compile(
    r"\.(?=[\s*$]|\Z)(?!\s*\d)|!+(?=\s+[A-Z]|\s*\Z)|\n|;\s+(?=[A-Za-z]{2})|\s+[—–-]{1,3}\s+(?!(?:pi|sqrt|exp|ln|log|sin|cos|tan)\b)(?=[A-Za-z]{2})|[,;]?\s+(?:since|because|so|which|where|when|as)\b",
    re.IGNORECASE,
)
TOKEN = re.compile(r"<\|[^|<>]{1,40}\|>")
TIMES = re.compile(r"(?<=\d)\s*[xX]\s*(?=\d[\d.,\s*+xX×-]*=)(?<!\b0x)(?<!\b0X)")
"""An `x` between numbers on the left of an equation: `5 x 11 = 55` has no unknown."""
MARKS = " \n*_`\"'"
"""Emphasis and quotes around an answer."""
TAG = re.compile(r"</?(?:(?:final_?)?answer|final|solution|response|b|i|u|p|em|strong|span|br) ?/?>", re.IGNORECASE)
SYMBOL = re.compile("[\u2600-\u27bf\ufe0f\U0001f300-\U0001faff]")
"""Ticks, stars and smileys."""
CORRECT = re.compile(
    r"\b(?:option|choice|answer)\s+\(?([A-Z])\)?\s+is\s+(?:the\s+)?(?:correct|right|best)\b", re.IGNORECASE
)


def extract_answer(response: str) -> str | None:
    """The final answer as the response spells it, or None where there is none."""
    text = TIMES.sub(" * ", SYMBOL.sub(" ", TOKEN.sub("\n", remove_thoughts(response))))
    marked = last_answer(text)
    if marked is not None:
        return find_answer(marked) or (None if BOX.search(marked) else marked.strip())
    return find_answer(TAG.sub("\n", text))


def find_answer(text: str) -> str | None:
    """The final answer of a text without thoughts and tags."""
    if BOX.search(text) or BARE_BOX.search(text):
        return last_box(text)
    text = text[-TAIL:].strip()
    correct = CORRECT.findall(text)
    return (
        last_announced(text)
        or (correct[-1] if correct else None)
        or bare_answer(text.strip(MARKS))
        or last_formula_or_numbers(text)
    )


def extract_reference(answer: str) -> str:
    """The answer within a data set's reference answer: its box, what follows `####`, else all of it."""
    boxed = last_box(answer)
    return answer.rpartition("####")[2] if boxed is None else boxed


def last_box(text: str) -> str | None:
    r"""The content of the last balanced `\boxed{}`, joined by commas with the boxes chained to it."""
    spans = find_boxes(text)
    if not spans:
        return None
    chain = [spans.pop()]
    while spans and len(chain) < CHAIN and are_linked(text, spans[-1][2] + 1, chain[0][0]):
        chain.insert(0, spans.pop())
    return ",".join(dict.fromkeys(text[start:end].strip() for _, start, end in chain))


def find_boxes(text: str) -> list[tuple[int, int, int]]:
    """All boxes in order: where each begins, where its content does, where that ends.

    A box that is taken back ("not \\boxed{10}") counts only where there is no other.
    """
    closing = matching_braces(text)
    spans = [(box.start(), box.end() + 1, closing[box.end()]) for box in BOX.finditer(text) if box.end() in closing]
    spans += [(box.start(), box.start(1), box.end(1)) for box in BARE_BOX.finditer(text)]
    kept = [span for span in spans if not DENIED.search(text, max(0, span[0] - 30), span[0])]
    return sorted(kept or spans)


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
        if SUPERSEDED.search(text, max(0, match.start() - 30), match.start()):
            continue
        after = work_out(text[match.end() :].lstrip(" *_:\n\t`"))
        formula = leading_formulas(after)
        sentence = SENTENCE_END.split(after, maxsplit=1)[0].strip(MARKS)
        if formula or sentence:
            return formula or answer_in_sentence(sentence)
    return None


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
