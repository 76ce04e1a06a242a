r"""What math-verify does not see of letters and signs: a capital letter is another than a small one, `\pm` is two."""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ["ends_a_sum", "is_same_choice", "keep_last_letter", "split_signs", "tell_cases_apart"]

RUN = re.compile(
    r"\\(?:math\w+|text\w*|mbox|vec|over\w+|underline|bar|(?:wide)?hat|(?:wide)?tilde|operatorname|begin|end)\s*\{[^{}]*\}"
    r"|\\[A-Za-z]+|(?<![A-Za-z])[A-Za-z]{1,2}(?![A-Za-z])"
)
"""Letters that stand alone or two in a row, and the commands whose letters are none of a formula."""
CONSTANTS = "CK"
"""Constants of integration, in the case that one likes."""
IMAGINARY = "I"
LAST_LETTER = re.compile(r"(.*[^A-Za-z\\,=<>_^])([a-z]|ab|bc|by|[cdghlot]s|rs|ss|lt|mp|mt|st)\s*", re.DOTALL)
"""A letter, or two which math-verify takes for a unit and nobody else."""
SUM = re.compile(r"[\w)}]\s*[-+](?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*$")
"""A sum, or a difference, not within braces, up to the end."""
OPERATOR = re.compile(r"\\(?:cdot|times|[pm][mp]|le|ge|leq|geq)\s*$")
NAMES = re.compile(r"\\(?:text\w*|mbox|math\w+)\s*\{[^{}]*\}|\\[A-Za-z]+")
CHOICES = re.compile(r"[A-E](?:,[A-E])*")


def is_same_choice(answer: str, gold: str) -> bool:
    """Whether an answer is the gold answer's choice, or choices, in small letters: `(b)` for `B`."""
    wanted = gold.replace(" ", "")
    return bool(CHOICES.fullmatch(wanted)) and re.sub(r"[()\s]", "", answer).upper() == wanted


def tell_cases_apart(answer: str, gold: str) -> tuple[str, str]:
    """Both, with the capital letters of which the small ones occur as well written as other symbols."""
    found = [{letter for run in RUN.findall(side) if run[0] != "\\" for letter in run} for side in (answer, gold)]
    both = {letter for letter in found[0] | found[1] if letter.isupper() and letter.lower() in found[0] | found[1]}
    both -= {letter for letter in CONSTANTS if not any({letter, letter.lower()} <= side for side in found)}
    both.discard(IMAGINARY)
    return (rename(answer, both), rename(gold, both)) if both else (answer, gold)


def rename(text: str, letters: set[str]) -> str:
    """A text with some capital letters as symbols of their own."""

    def write(run: re.Match[str]) -> str:
        if run[0][0] == "\\":
            return run[0]
        return "".join(f"\\mathcal{{{letter}}}" if letter in letters else letter for letter in run[0])

    return RUN.sub(write, text)


def split_signs(text: str) -> str:
    r"""A text in which a part with one `\pm` within brackets is two: `\frac{1\pm\sqrt{5}}{2}` is a list of two.

    Elsewhere math-verify reads the sign, and of several that belong to each other nobody knows how.
    """
    if r"\pm" not in text or re.search(r"[=<>]|\\(?:le|ge|in)", text):
        return text
    braced = re.fullmatch(r"\s*\\\{(.*)\\\}\s*", text, re.DOTALL)
    return ",".join(variant for part in split_list(braced[1] if braced else text) for variant in read_signs(part))


def split_list(text: str) -> Iterator[str]:
    """The parts of a list: what stands between commas outside brackets."""
    depth = start = 0
    for index, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            yield text[start:index]
            start = index + 1
    yield text[start:]


def read_signs(part: str) -> list[str]:
    r"""The two that a part with one `\pm` within brackets stands for, else the part."""
    signs = re.findall(r"\\[pm][mp](?![A-Za-z])", part)
    before = part.partition(r"\pm")[0]
    if signs.count(r"\pm") != 1 or len(signs) > 2 or sum(map(before.count, "([{")) == sum(map(before.count, ")]}")):
        return [part]
    return [write_signs(part, plus, minus) for plus, minus in ("+-", "-+")]


def write_signs(part: str, plus: str, minus: str) -> str:
    r"""A part with a sign for `\pm` and one for `\mp`; a `+` that leads is left out."""
    part = re.sub(r"\\mp(?![A-Za-z])", lambda _: minus, re.sub(r"\\pm(?![A-Za-z])", lambda _: plus, part))
    return re.sub(r"(?<=[([{,])\s*\+", "", part)


def keep_last_letter(text: str) -> str:
    r"""A text whose last letter math-verify does not take for a unit: the `h` of `\pi r^2 h`, of `x + h`, of `5+3h`.

    Behind a mere number it is one, `\frac{1}{2} h`; two letters as in `2ab` never are.
    """
    text = re.sub(r"(?<=[-+*/=<>,])\s+(?=[a-z]\s*$)", "", text)
    last = LAST_LETTER.fullmatch(text)
    if last and (
        last[2] in ("ab", "bc")
        or OPERATOR.search(last[1])
        or re.search("[A-Za-z]", NAMES.sub("", last[1]))
        or ends_a_sum(last[1], last[2])
    ):
        return f"{last[1]}{{{last[2]}}}"
    return text


def ends_a_sum(before: str, letter: str) -> bool:
    r"""Whether a last letter is a factor of a sum's last term, `80-16t`; `5+3\sqrt{2} m` are metres."""
    return SUM.search(before) is not None and not (before[-1:].isspace() and letter in "ghlms")
