"""A task of the user's own: a dataclass in a file or a module, which a recipe names as `file.py:Class`.

Its fields are its settings. It says what the problems are, and perhaps what an answer is worth:

    problems(self)                       rows as `files` has them (problem, answer, ...), or `Problem`s
    test_problems(self)                  likewise; without it a tenth of the problems, picked by a hash, is held out
    reward(self, completions, **columns) a reward function with TRL's signature; without it answers are mathematics
    prompt, correction                   the wording, as fields

or it has `build(self)`, which returns a whole `Task`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from functools import partial
from itertools import chain
from typing import Any, get_type_hints

from pydantic import PydanticUserError, TypeAdapter

from scorl.errors import UserError
from scorl.tasks.columns import check_golds, find_problem
from scorl.tasks.data import divide, named_apart
from scorl.tasks.files import CORRECTION, PROMPT, Files, is_chat, make_problem
from scorl.tasks.own_code import import_named, telling_failures
from scorl.tasks.reward import RewardFunction, RewardJudge
from scorl.tasks.rows import Row, keep_good
from scorl.tasks.task import Task
from scorl.trajectory import Problem
from scorl.verifiers import TEXT_VERIFIERS, Judge

__all__ = ["RESERVED", "build_own", "find_own"]

RESERVED = ("name", "split", "system_prompt", "few_shot", "few_shot_seed", "on_error")
"""Keys that every task has in a recipe."""


def find_own(name: str) -> tuple[type[Any], Callable[[Any], Task]]:
    """The settings and the builder of the task that `file.py:Class` or `module:Class` names.

    Raises:
        UserError: there is no such class, or it is none of a task.
    """
    what, kind = f"task '{name}'", import_named("task", name, "class")
    if not isinstance(kind, type) or not is_dataclass(kind):
        raise UserError(f"{what}: {kind.__name__} is no dataclass: write @dataclass above `class {kind.__name__}:`")
    if not any(callable(getattr(kind, method, None)) for method in ("problems", "build")):
        raise UserError(f"{what}: {kind.__name__} needs a method problems, for its problems, or build, for a Task")
    taken = [field.name for field in fields(kind) if field.name in RESERVED]
    if taken:
        raise UserError(f"{what}: every task has a key '{taken[0]}' of its own; give the field another name")
    try:
        get_type_hints(kind)
        TypeAdapter(kind).json_schema()
    except (PydanticUserError, NameError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{what}: a field's type is none that a recipe can have ({reason})") from error
    return kind, partial(build_own, name)


def build_own(name: str, settings: Any) -> Task:
    """The task of an own class.

    Raises:
        UserError: its methods raise, or return something else than they should.
    """
    what = f"task '{name}'"
    if hasattr(settings, "build"):
        with telling_failures(f"{what}: build"):
            task = settings.build()
        if not isinstance(task, Task):
            raise UserError(f"{what}: build returned {task!r:.60}, not a scorl.tasks.Task")
        return replace(task, name=name)
    every = read_problems(name, settings, "problems")
    test = read_problems(name, settings, "test_problems") if hasattr(settings, "test_problems") else None
    fraction = getattr(settings, "test_fraction", 0.1)
    splits = divide(name, every, test, fraction, what, "the method test_problems")
    judge = choose_judge(name, settings, [*every, *(test or ())])
    return Task(name, splits, getattr(settings, "correction", CORRECTION), judge)


def choose_judge(name: str, settings: Any, problems: Sequence[Problem]) -> Judge:
    """The class's own reward, else that of mathematics."""
    if not hasattr(settings, "reward"):
        return TEXT_VERIFIERS["math"]
    function = RewardFunction(f"{name}.reward", settings.reward, is_chat(problems[0]))
    function.check(dict.fromkeys(chain.from_iterable(problem.columns for problem in problems)))
    return RewardJudge((function.name,), (function,), (1.0,))


def read_problems(name: str, settings: Any, method: str) -> list[Problem]:
    """What `problems` or `test_problems` returns, as problems under names of their own."""
    what = f"task '{name}': {method}"
    problems = list_problems(what, settings, method)
    if [problem.prompt for problem in list_problems(what, settings, method)] != [one.prompt for one in problems]:
        raise UserError(f"{what} returns other problems each time; take random numbers from a seed: random.Random(0)")
    if not hasattr(settings, "reward"):
        check_golds([(f"{what}, entry {n}", str(one.answer)) for n, one in enumerate(problems, 1)], name)
    return named_apart(problems)


def list_problems(what: str, settings: Any, method: str) -> list[Problem]:
    """The problems of one call."""
    with telling_failures(what):
        entries = getattr(settings, method)()
        entries = list(entries) if isinstance(entries, Iterable) and not isinstance(entries, str) else entries
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{what} returned {entries!r:.60}, not problems")
    numbered = enumerate(entries, 1)
    return keep_good(lambda entry: read_entry(entry[1], f"{what}, entry {entry[0]}", settings), numbered)


def read_entry(entry: Any, place: str, settings: Any) -> Problem:
    """A problem, or a row of one; where the class has a reward, its answer may be anything, or nothing."""
    if isinstance(entry, Problem):
        return replace(entry, columns={"answer": entry.answer, **entry.columns})
    if not isinstance(entry, Mapping):
        raise UserError(f'{place}: should be like {{"problem": "...", "answer": "..."}}, not {entry!r:.60}')
    judged = hasattr(settings, "reward")
    row = Row({str(key): value for key, value in entry.items()}, place)
    reading = Files(
        answer="answer",
        solution="solution" if "solution" in row.values else None,
        verifier="class:reward" if judged else "math",
        prompt=getattr(settings, "prompt", PROMPT),
    )
    default = getattr(type(settings), "prompt", PROMPT)
    template = default if isinstance(default, str) else PROMPT
    problem = make_problem(row, find_problem(row), "answer", reading, template)
    return replace(problem, answer=row.values.get("answer")) if judged else problem
