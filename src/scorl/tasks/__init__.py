"""Tasks: problems by split, the wording of the turns, and a judge.

A new task is a settings dataclass, a builder, and a line in `TASKS`; one of the user's own is named as `file.py:Class`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import TypeAdapter

from scorl.errors import UserError, nearest
from scorl.tasks.countdown import Countdown, countdown
from scorl.tasks.environment import Verifiers, verifiers
from scorl.tasks.files import Files, files
from scorl.tasks.functions import Functions, functions
from scorl.tasks.grade_school import Gsm8k, Svamp, gsm8k, svamp
from scorl.tasks.humaneval import HumanEval, humaneval
from scorl.tasks.math import Math, math
from scorl.tasks.mbpp import Mbpp, MbppRepair, mbpp, mbpp_repair
from scorl.tasks.own import find_own
from scorl.tasks.own_code import is_own_code
from scorl.tasks.plus import HumanEvalPlus, MbppPlus, plus
from scorl.tasks.programs import Programs, programs
from scorl.tasks.reasoning_gym import ReasoningGym, reasoning_gym
from scorl.tasks.task import Problems, Task
from scorl.tasks.word_problems import WordProblems, word_problems
from scorl.validation import validated
from scorl.verifiers import Judge

__all__ = ["TASKS", "Judge", "Problems", "Task", "find_task", "load"]

TASKS: dict[str, tuple[type[Any], Callable[[Any], Task]]] = {
    "countdown": (Countdown, countdown),
    "functions": (Functions, functions),
    "word-problems": (WordProblems, word_problems),
    "gsm8k": (Gsm8k, gsm8k),
    "svamp": (Svamp, svamp),
    "math": (Math, math),
    "mbpp": (Mbpp, mbpp),
    "mbpp-repair": (MbppRepair, mbpp_repair),
    "mbpp+": (MbppPlus, plus),
    "humaneval": (HumanEval, humaneval),
    "humaneval+": (HumanEvalPlus, plus),
    "programs": (Programs, programs),
    "files": (Files, files),
    "reasoning-gym": (ReasoningGym, reasoning_gym),
    "verifiers": (Verifiers, verifiers),
}
"""The settings and the builder of each task, by the name that recipes use."""


def find_task(name: str) -> tuple[type[Any], Callable[[Any], Task]]:
    """The settings and the builder of a task: one of `TASKS`, or the user's own.

    Raises:
        UserError: there is no such task, or no task behind a name of the user's own.
    """
    if is_own_code(name):
        return find_own(name)
    if name not in TASKS:
        raise UserError(f"no task '{name}': {nearest(name, [*TASKS, 'file.py:Class'])}")
    return TASKS[name]


def load(name: str, **settings: Any) -> Task:
    """A task by name, e.g. `load("gsm8k", path="gsm8k/")` or `load("my_task.py:MyTask")`.

    Raises:
        UserError: there is no such task or setting, one has a wrong value, or the task's data cannot be read.
    """
    kind, build = find_task(name)
    return build(validated(TypeAdapter(kind), settings, f"task '{name}'"))
