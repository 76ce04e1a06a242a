"""The program in an answer: the code block that counts, or the lines that look like Python.

Pure functions on text; nothing of an answer is parsed or run here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from scorl.verifiers.thoughts import last_answer, remove_thoughts

__all__ = ["extract_program", "put_before", "remove_comments"]

FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,})[ \t]*([\w+#.-]*)[^\n`]*$")
PYTHON = ("", "python", "py", "python3", "py3", "python2", "ipython")
CODE = re.compile(
    r"(?:async\s+)?(?:def|class)\s+\w|import\s+\w|from\s+[\w.]+\s+import\b|@\w|#|[\"']{3}|\w[\w.]*\(.*\)\s*(?:#.*)?$"
    r"|(?:if|for|while|with|try|except|elif|else|finally|match)\b.*:\s*"
    r"(?:#.*|(?:pass|break|continue|return|raise)\b.*|\w[\w.]*(?:\(|\s*[-+*/%]?=).*)?$|(?:print|assert|return|raise|del)\b"
    r"|[\w.\[\]'\", *()\t]++(?::\s*[\w.\[\], ]++)?(?:[-+/%&|^@]|//|<<|>>)?=(?!=)"
)
"""How a line of Python that is not indented begins."""
PROSE = re.compile(r"[A-Z*>-][^=()\[\]{}]*|\w+[',]?(?:\s+[\w',.`*-]+){2,}.*")
QUOTES = re.compile(r"\"{3}|'{3}")
IDLE_LINE = re.compile(r"[ \t\f]*(?:#.*)?")
"""A line that does nothing: empty, or a comment."""
MULTILINE_STRING = re.compile(r"\"{3}|'{3}|\\$", re.MULTILINE)
"""What lets a string continue over the end of its line."""
DEFINES = r"^[ \t]*(?:async[ \t]+)?(?:def|class)[ \t]+{name}\b"
DEFINED = re.compile(
    r"^(?:(?:async[ \t]+)?(?:def|class)[ \t]+(\w+)|([A-Z][A-Z_\d]+)[ \t]*=(?!=)|(?:from[ \t]+\S+[ \t]+)?import\b(.*))",
    re.MULTILINE,
)
"""What a program defines for others: functions, classes, constants, imports."""
FUTURE = re.compile(
    r"\ufeff?(?:(?:[ \t\f]*(?:#[^\n]*)?\n|[rRuU]?(?>(\"{3}|'{3}).*?\1|[\"'][^\n]*)[^\n]*\n)*+"
    r"from[ \t]+__future__[ \t]+import\b[ \t]*(?>\([^()]*\))?(?:\\\n|[^\n])*+(?:\n|\Z))+",
    re.DOTALL,
)
"""A program's `__future__` imports, with the comments and the docstring before them."""
TAGGED = re.compile(
    r"^[ \t]*(?:<(code|python|solution|program)>|\[(PYTHON|CODE|ANSWER|BEGIN)\])[ \t]*\n?"
    r"(.*?)(?:</\1>|\[/\2\]|^[ \t]*\[(?:DONE|END)\]|\Z)",
    re.MULTILINE | re.DOTALL | re.IGNORECASE,
)
"""A program between tags, as in MBPP's paper (`[BEGIN]`, `[DONE]`) and Code Llama's."""
SPECIAL = re.compile(r"(?:<\|[^|<>]{1,40}\|>|</s>)\Z")
"""A special token that ends a response and was written out."""
END_TAG = re.compile(
    r"^[ \t]*(?:</(?:code|python|solution|program|answer)>|\[/(?:PYTHON|CODE|ANSWER)\]|\[(?:DONE|END)\])", re.MULTILINE
)
"""The end of a program whose beginning stands in the prompt."""


def extract_program(answer: str, entry_point: str | None = None) -> str | None:
    """The program of a chat answer, or None.

    Code blocks count if they are marked as Python or not marked: the last one that defines `entry_point` (where one
    is named and any block does), else the last that defines anything, else the last; with it those before it whose
    functions, classes, variables or imports it uses. A block that never closes, as in an answer that was cut off,
    counts up to its end. Without blocks it is what stands between tags (`TAGGED`), else the answer from the first
    line that looks like Python on, with prose behind it left out. What was thought aloud is no part of the answer.
    """
    text = strip_special(remove_thoughts(answer)).replace("\r\n", "\n").replace("\r", "\n")
    marked = last_answer(text)
    return (marked and find_program(marked, entry_point)) or find_program(text, entry_point)


def find_program(text: str, entry_point: str | None) -> str | None:
    """The program of a text without thoughts."""
    fenced = list(code_blocks(open_first_fence(text)))
    candidates = [between_tags(body) for mark, body in fenced if mark.lower() in PYTHON and body.strip()]
    if not candidates:
        return None if fenced else unfenced_code(between_tags(text))
    chosen = choose_block(candidates, entry_point)
    return add_used_blocks(candidates[:chosen], candidates[chosen])


def strip_special(text: str) -> str:
    """The text without the special tokens at its end."""
    while token := SPECIAL.search(text.rstrip()[-50:]):
        text = text.rstrip()[: -len(token[0])]
    return text


def between_tags(text: str) -> str:
    """What stands in the last tags for a program, or before a tag that ends it; else the text."""
    tagged = list(TAGGED.finditer(text))
    return tagged[-1][3].rstrip() if tagged else END_TAG.split(text, maxsplit=1)[0]


def choose_block(blocks: list[str], entry_point: str | None) -> int:
    """The index of the block that counts."""
    names = [re.escape(entry_point)] if entry_point else []
    for name in [*names, r"\w+"]:
        defining = [i for i, body in enumerate(blocks) if re.search(DEFINES.format(name=name), body, re.MULTILINE)]
        if defining:
            return defining[-1]
    return len(blocks) - 1


def add_used_blocks(earlier: list[str], program: str) -> str:
    """The program behind those earlier blocks that define what it uses and does not define itself."""
    for block in reversed(earlier):
        missing = defined_names(block) - defined_names(re.sub(r"(?m)^[ \t]+", "", program))
        if missing & set(re.findall(r"\w+", program)):
            program = put_before(f"{block}\n", program)
    return program


def put_before(code: str, program: str) -> str:
    """The program with code before it, but behind its `__future__` imports, which nothing may precede."""
    if head := FUTURE.match(program):
        return f"{head[0].rstrip()}\n{code}\n{program[head.end() :]}"
    return f"{code}\n{program}"


def defined_names(program: str) -> set[str]:
    """The names that a program defines or imports at its top level."""
    return {name for found in DEFINED.findall(program) for group in found for name in re.findall(r"\w+", group)}


def open_first_fence(text: str) -> str:
    """The text with a fence before it, where its first fence only closes: the prompt has opened the block."""
    lines = text.split("\n")
    fences = [(index, match[1], match[2]) for index, line in enumerate(lines) if (match := FENCE.match(line))]
    if not fences or fences[0][2] or (len(fences) % 2 == 0 and not fences[1][2]):
        return text
    index, fence, _ = fences[0]
    first = next((line for line in lines[:index] if line.strip()), "")
    return f"{fence}\n{text}" if first[:1].isspace() or CODE.match(first) else text


def remove_comments(program: str) -> str:
    """The program without the lines that do nothing; as it is where such a line could be part of a string."""
    if MULTILINE_STRING.search(program):
        return program
    return "\n".join(line for line in program.split("\n") if not IDLE_LINE.fullmatch(line))


def code_blocks(text: str) -> Iterator[tuple[str, str]]:
    """The code blocks: (mark behind the opening fence, body without the block's own indentation).

    A fence that is indented within a docstring is part of it.
    """
    fence, mark, indent, quoted = "", "", 0, False
    body: list[str] = []
    for line in text.split("\n"):
        opening = FENCE.match(line)
        if not fence and opening:
            fence, mark, indent, body = opening[1], opening[2], len(line) - len(line.lstrip()), []
            quoted = False
        elif fence and closes(line, fence) and not (quoted and len(line) - len(line.lstrip()) >= indent + 4):
            yield mark, "\n".join(body)
            fence = ""
        elif fence:
            quoted ^= len(QUOTES.findall(line)) % 2 == 1
            body.append(line[indent:] if not line[:indent].strip() else line)
    if fence:
        yield mark, "\n".join(body).rstrip().removesuffix(fence)  # it may close behind its last line of code


def closes(line: str, fence: str) -> bool:
    """Whether a line can close a block."""
    bare = line.strip()
    return bare.startswith(fence) and not bare.strip(fence[0])


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
