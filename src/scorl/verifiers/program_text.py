"""The program in an answer: the code block that counts, or the lines that look like Python.

Pure functions on text; nothing of an answer is parsed or run here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ["program_in"]

FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,})[ \t]*([\w+#.-]*)[^\n`]*$")
PYTHON = ("", "python", "py", "python3", "py3", "python2", "ipython")
CODE = re.compile(
    r"(?:async\s+def|def|class)\s+\w|(?:import\s+\w+|from\s+[\w.]+\s+import\b)|@\w|\w+(?:\s*,\s*\w+)*\s*=[^=]"
    r"|(?:if|for|while|with|try|except|elif|else|return|print|assert)\b.*[:)]\s*$|[\"']{3}|#"
)
DEFINES = r"^[ \t]*(?:async[ \t]+)?(?:def|class)[ \t]+{name}\b"
THOUGHT = "</think>"


def program_in(answer: str, entry_point: str | None = None) -> str | None:
    """The program of a chat answer, or None.

    Code blocks count if they are marked as Python or not marked: the last one that defines `entry_point` (where one
    is named and any block does), else the last that defines anything, else the last. A block that never closes,
    as in an answer that was cut off, counts up to its end. Without blocks it is the answer from the first line
    that looks like Python on, with prose behind it left out.
    """
    text = answer.rpartition(THOUGHT)[2].replace("\r\n", "\n").replace("\r", "\n")
    found = [body for mark, body in blocks(text) if mark.lower() in PYTHON and body.strip()]
    if not found:
        return None if any(True for _ in blocks(text)) else unfenced(text)
    names = [re.escape(entry_point)] if entry_point else []
    for name in [*names, r"\w+"]:
        defining = [body for body in found if re.search(DEFINES.format(name=name), body, re.MULTILINE)]
        if defining:
            return defining[-1]
    return found[-1]


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """The code blocks: (mark behind the opening fence, body without the block's own indentation)."""
    fence, mark, indent = "", "", 0
    body: list[str] = []
    for line in text.split("\n"):
        found = FENCE.match(line)
        if not fence and found:
            fence, mark, indent, body = found[1], found[2], len(line) - len(line.lstrip()), []
        elif fence and line.strip().startswith(fence) and not line.strip().strip(fence[0]):
            yield mark, "\n".join(body)
            fence = ""
        elif fence:
            body.append(line[indent:] if not line[:indent].strip() else line)
    if fence:
        yield mark, "\n".join(body)


def unfenced(text: str) -> str | None:
    """The lines from the first to the last that look like Python, if there are any."""
    lines = text.strip("\n").split("\n")
    start = next((index for index, line in enumerate(lines) if CODE.match(line)), None)
    if start is None:
        return text.rstrip() if all(line[:1] in " \t" or not line for line in lines) and text.strip() else None
    end = start
    for index in range(start, len(lines)):
        line = lines[index]
        if line[:1] in (" ", "\t", ")", "]", "}") or CODE.match(line):
            end = index
        elif line.strip() and index > end + 1 and not CODE.match(line):
            break
    return "\n".join(lines[start : end + 1])
