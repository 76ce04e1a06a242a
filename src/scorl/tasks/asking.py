"""A question of the user's own in a task's wording, and the final answer that a task reads off a response.

Nothing of a task's data is read. A task whose prompt has other places than `{question}`, or whose answers are not those
of mathematics, says so in its settings: methods `pose_question(question) -> str` and `find_answer(response) -> str`.
"""

from __future__ import annotations

import re
import warnings
from typing import Any

from scorl.tasks.files import CORRECTION
from scorl.trajectory import Problem, user
from scorl.verifiers import math
from scorl.verifiers.extract_answer import extract_answer
from scorl.verifiers.normalize import normalize

__all__ = ["correction_of", "find_answer", "name_answer", "pose_question"]

QUESTION = "{question}"


def pose_question(settings: Any, question: str) -> Problem:
    """A question as a problem of a task with these settings (None: of no task, and it is asked as it is).

    Raises:
        UserError: the task cannot read the question.
    """
    template = str(getattr(settings, "prompt", QUESTION))
    if hasattr(settings, "pose_question"):
        text = settings.pose_question(question)
    elif set(re.findall(r"\{\w+\}", template)) <= {QUESTION} and QUESTION in template:
        text = template.replace(QUESTION, question)
    else:
        warnings.warn(f"the question is asked as it is, for the task's prompt wants more: {template!r}", stacklevel=2)
        text = question
    return Problem("question", (user(text),))


def find_answer(settings: Any, response: str) -> str | None:
    """The final answer in a response, as the verifier of a task with these settings would find it; None: there is none.

    Without a task it is looked for as in mathematics.
    """
    find = getattr(settings, "find_answer", extract_answer)
    answer: str | None = find(response)
    return answer


def name_answer(settings: Any, answer: str) -> str:
    """What equal answers have in common: in mathematics 0.5 and 1/2 are one; a task's own count by their text."""
    return answer if hasattr(settings, "find_answer") else math.name_answer(normalize(answer))


def correction_of(settings: Any) -> str:
    """What a task with these settings says between two attempts."""
    return str(getattr(settings, "correction", CORRECTION))
