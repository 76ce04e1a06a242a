"""What of a response is its answer: not what was thought aloud, and the part that is marked as the answer.

Reasoning models write `<think>...</think>` or gpt-oss's channels, R1 and open-r1 `<answer>...</answer>` behind it.
Both functions take time linear in the text.
"""

from __future__ import annotations

import re

__all__ = ["last_answer", "remove_thoughts"]

OPENED = re.compile(
    r"<(?:think|thinking|thought|reasoning)>|\[THINK\]|<\|begin_of_thought\|>|<\|channel\|>analysis", re.IGNORECASE
)
CLOSED = re.compile(
    r"</(?:think|thinking|thought|reasoning)>|\[/THINK\]|<\|end_of_thought\|>|<\|channel\|>final<\|message\|>",
    re.IGNORECASE,
)
TAG = re.compile(r"<(/?)(?:final_?)?answer>", re.IGNORECASE)


def remove_thoughts(response: str) -> str:
    """The response behind its last thought; a thought that never closes goes on to the end.

    Many chat templates open the thought in the prompt, so that a response may only close it.
    """
    ends = [match.end() for match in CLOSED.finditer(response)]
    rest = response[ends[-1] :] if ends else response
    opened = OPENED.search(rest)
    return rest[: opened.start()] if opened else rest


def last_answer(text: str) -> str | None:
    """What stands in the last `<answer>...</answer>`; None without one that closes."""
    start, content = None, None
    for tag in TAG.finditer(text):
        if not tag[1]:
            start = tag.end()
        elif start is not None:
            start, content = None, text[start : tag.start()]
    return content
