"""The program in an answer: the code block that counts, or the lines that look like Python.

Pure functions on text; nothing of an answer is parsed or run here.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

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
READS, PRINTS = r"\binput\s*\(|\bstdin\b|\bopen\(0\b", r"\bprint\s*\(|\bstdout\b"
"""What a main program most often reads its input and prints by."""
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


def extract_program(answer: str, *names: str, prints: bool = False) -> str | None:
    """The program of a chat answer, or None.

    Code blocks count if they are marked as Python or not marked: the last one that defines one of `names`, which are
    what is tested; else, where what the program `prints` is tested, the last that reads input and prints, else the last
    that prints; else the last that defines anything, else the last that is marked, else the last; with it those before
    it whose functions, classes, variables or imports it uses or `names` has. A block that never closes, as in an answer
    that was cut off, counts up to its end. Without blocks it is what stands between tags (`TAGGED`), else the answer
    from the first line that looks like Python on, with prose behind it left out. What was thought aloud is no part of
    the answer.
    """
    text = strip_special(remove_thoughts(answer)).replace("\r\n", "\n").replace("\r", "\n")
    marked = last_answer(text)
    return (marked and find_program(marked, names, prints)) or find_program(text, names, prints)


def find_program(text: str, names: Collection[str], prints: bool) -> str | None:
    """The program of a text without thoughts."""
    fenced = list(code_blocks(open_first_fence(text)))
    candidates = [(mark, between_tags(body)) for mark, body in fenced if mark.lower() in PYTHON and body.strip()]
    if not candidates:
        return None if fenced else unfenced_code(between_tags(text))
    blocks = [body for _, body in candidates]
    chosen = choose_block(blocks, names, prints)
    if chosen is None:  # beside a marked block one that is not marked is what the program reads or prints
        marked = [i for i, (mark, _) in enumerate(candidates) if mark]
        chosen = marked[-1] if marked else len(blocks) - 1
    return add_used_blocks(blocks[:chosen], blocks[chosen], names)


def strip_special(text: str) -> str:
    """The text without the special tokens at its end."""
    while token := SPECIAL.search(text.rstrip()[-50:]):
        text = text.rstrip()[: -len(token[0])]
    return text


def between_tags(text: str) -> str:
    """What stands in the last tags for a program, or before a tag that ends it; else the text."""
    tagged = list(TAGGED.finditer(text))
    return tagged[-1][3].rstrip() if tagged else END_TAG.split(text, maxsplit=1)[0]


def choose_block(blocks: list[str], names: Collection[str], prints: bool) -> int | None:
    """The index of the last block that does what is wanted, if any does."""
    named = DEFINES.format(name=f"(?:{'|'.join(map(re.escape, names))})")
    if names and (found := find_blocks(named, blocks)):
        return found[-1]
    if prints and (printing := find_blocks(PRINTS, blocks)):
        mains = sorted(set(printing) & set(find_blocks(READS, blocks)))
        return find_main(blocks, mains) if mains else printing[-1]
    found = find_blocks(DEFINES.format(name=r"\w+"), blocks)
    return found[-1] if found else None


def find_blocks(pattern: str, blocks: list[str]) -> list[int]:
    """The indices of the blocks in which something matches."""
    return [i for i, body in enumerate(blocks) if re.search(pattern, body, re.MULTILINE)]


def find_main(blocks: list[str], mains: list[int]) -> int | None:
    """The last of the blocks with these indices that needs nothing which an earlier one of them defines."""
    # One that does is an excerpt of it, and could not run behind it, since it would find the input read.
    main, defined = None, set[str]()
    for index in mains:
        if not find_missing(defined, blocks[index]):
            main = index
        defined |= defined_names(blocks[index])
    return main


def add_used_blocks(earlier: list[str], program: str, names: Collection[str]) -> str:
    """The program behind those earlier blocks that define what it uses, or one of `names`, and it does not."""
    for block in reversed(earlier):
        if find_missing(defined_names(block), program, names):
            program = put_before(f"{block}\n", program)
    return program


def find_missing(defined: set[str], program: str, names: Collection[str] = ()) -> set[str]:
    """Those of the defined names that are among `names` or used in a program, which does not define them."""
    wanted = defined & {*names, *re.findall(r"\w+", program)}
    return wanted - defined_names(re.sub(r"(?m)^[ \t]+", "", program))


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
    return f"{fence}python\n{text}" if first[:1].isspace() or CODE.match(first) else text


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
