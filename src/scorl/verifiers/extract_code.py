"""The program in an answer: the code block that counts, or the lines that look like Python.

Pure functions on text; nothing of an answer is parsed or run here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ["extract_program", "remove_comments"]

FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,})[ \t]*([\w+#.-]*)[^\n`]*$")
PYTHON = ("", "python", "py", "python3", "py3", "python2", "ipython")
CODE = re.compile(
    r"(?:async\s+)?(?:def|class)\s+\w|import\s+\w|from\s+[\w.]+\s+import\b|@\w|#|[\"']{3}|\w[\w.]*\(.*\)\s*(?:#.*)?$"
    r"|(?:if|for|while|with|try|except|elif|else|finally|match)\b.*:\s*"
    r"(?:#.*|(?:pass|break|continue|return|raise)\b.*|\w[\w.]*(?:\(|\s*[-+*/%]?=).*)?$|(?:print|assert|return|raise|del)\b"
    r"|[\w.\[\]'\", *()]+?\s*(?::\s*[\w.\[\], ]+)?(?:[-+*/%&|^@]|//|\*\*|<<|>>)?=(?!=)"
)
"""How a line of Python that is not indented begins."""
PROSE = re.compile(r"[A-Z*>-][^=()\[\]{}]*|\w+[',]?(?:\s+[\w',.`*-]+){2,}.*")
QUOTES = re.compile(r"\"{3}|'{3}")
IDLE_LINE = re.compile(r"[ \t\f]*(?:#.*)?")
"""A line that does nothing: empty, or a comment."""
MULTILINE_STRING = re.compile(r"\"{3}|'{3}|\\$", re.MULTILINE)
"""What lets a string continue over the end of its line."""
DEFINES = r"^[ \t]*(?:async[ \t]+)?(?:def|class)[ \t]+{name}\b"
THOUGHT = "</think>"


def extract_program(answer: str, entry_point: str | None = None) -> str | None:
    """The program of a chat answer, or None.

    Code blocks count if they are marked as Python or not marked: the last one that defines `entry_point` (where one
    is named and any block does), else the last that defines anything, else the last. A block that never closes,
    as in an answer that was cut off, counts up to its end. Without blocks it is the answer from the first line
    that looks like Python on, with prose behind it left out.
    """
    text = answer.rpartition(THOUGHT)[2].replace("\r\n", "\n").replace("\r", "\n")
    fenced = list(code_blocks(text))
    candidates = [body for mark, body in fenced if mark.lower() in PYTHON and body.strip()]
    if not candidates:
        return None if fenced else unfenced_code(text)
    names = [re.escape(entry_point)] if entry_point else []
    for name in [*names, r"\w+"]:
        defining = [body for body in candidates if re.search(DEFINES.format(name=name), body, re.MULTILINE)]
        if defining:
            return defining[-1]
    return candidates[-1]


def remove_comments(program: str) -> str:
    """The program without the lines that do nothing; as it is where such a line could be part of a string."""
    if MULTILINE_STRING.search(program):
        return program
    return "\n".join(line for line in program.split("\n") if not IDLE_LINE.fullmatch(line))


def code_blocks(text: str) -> Iterator[tuple[str, str]]:
    """The code blocks: (mark behind the opening fence, body without the block's own indentation)."""
    fence, mark, indent = "", "", 0
    body: list[str] = []
    for line in text.split("\n"):
        opening = FENCE.match(line)
        if not fence and opening:
            fence, mark, indent, body = opening[1], opening[2], len(line) - len(line.lstrip()), []
        elif fence and line.strip().startswith(fence) and not line.strip().strip(fence[0]):
            yield mark, "\n".join(body)
            fence = ""
        elif fence:
            body.append(line[indent:] if not line[:indent].strip() else line)
    if fence:
        yield mark, "\n".join(body)


def unfenced_code(text: str) -> str | None:
    """The lines from the first that looks like Python up to prose; None if no line does.

    A text that begins indented is taken from there: it continues a function's head.
    """
    lines = text.strip("\n").rstrip().split("\n")
    first = next((line for line in lines if line.strip()), "")
    start = 0 if first[:1] in (" ", "\t") else next((i for i, line in enumerate(lines) if CODE.match(line)), None)
    if start is None or not first:
        return None
    end, quoted = len(lines), False
    for index in range(start, len(lines)):
        line = lines[index]
        if not quoted and line[:1].strip() and not CODE.match(line) and PROSE.fullmatch(line.rstrip()):
            end = index
            break
        quoted ^= len(QUOTES.findall(line)) % 2 == 1
    return "\n".join(lines[start:end]).rstrip()
