"""`humaneval+` and `mbpp+`: the files of evalplus, judged by many inputs on which the reference program is asked.

The reference runs beside the tests, so a program never meets what is expected. How outputs are compared follows
evalplus: numbers within `atol`, and its special cases by name of the function. JSON has no tuples, sets or complex
numbers; which arguments of MBPP+ are such is listed here by task_id, as in evalplus.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from scorl.errors import UserError
from scorl.tasks.coding import ProgramSettings, Seconds, as_block
from scorl.tasks.data import Finite, named_apart
from scorl.tasks.humaneval import PROMPT, code_before
from scorl.tasks.rows import Row, column, keep_good, text_column
from scorl.tasks.sources import read_rows
from scorl.tasks.task import Task
from scorl.trajectory import Problem, user
from scorl.verifiers.program import Examination

__all__ = ["HumanEvalPlus", "MbppPlus", "plus"]

MBPP_PROMPT = (
    "Write a Python program for the task in this docstring. Put it into one Python code block.\n\n"
    "```python\n{question}\n```"
)
CHECK = """
def check(candidate):
    import copy, math
    reference = {{}}
    exec({reference!r}, reference)
    reference = reference[{name!r}]

    def close(returned, expected, atol):
        if type(returned) is not type(expected):
            return False
        if isinstance(expected, (list, tuple)):
            return len(returned) == len(expected) and all(near(*pair, atol) for pair in zip(returned, expected))
        return near(returned, expected, atol)

    def near(returned, expected, atol):
        if isinstance(expected, (list, tuple)):
            return len(returned) == len(expected) and all(near(*pair, atol) for pair in zip(returned, expected))
        return returned == expected or abs(returned - expected) <= atol + 1e-7 * abs(expected)

    def floats(value):
        return isinstance(value, float) or (
            isinstance(value, (list, tuple)) and bool(value) and all(isinstance(one, float) for one in value)
        )

    def same(arguments, returned, expected):
        {special}
        atol = {atol!r} or (1e-6 if floats(expected) else 0)
        return returned == expected or (atol != 0 and close(returned, expected, atol))

    for arguments in {inputs!r}:
        expected = reference(*copy.deepcopy(arguments))
        returned = candidate(*arguments)
        assert same(arguments, returned, expected)
"""
SETS = "return set(returned) == set(expected)"
GIVEN = (
    "truth = expected if isinstance(expected, bool) else expected is not None\n"
    "        return truth == (returned if isinstance(returned, bool) else returned is not None)"
)
SPECIAL = {
    "find_zero": "return abs(sum(c * math.pow(returned, i) for i, c in enumerate(arguments[0]))) <= {atol!r}",
    "are_equivalent": "return True",
    "sum_div": "if returned == 0: return True",
    "surface_Area": "a, h = arguments; "
    "value = round(a**2 + 2 * a * math.sqrt((a / 2) ** 2 + h**2))\n"
    "        if abs(returned - value) <= {atol!r}: return True",
    "digit_distance_nums": "a, b = map(str, arguments); n = max(len(a), len(b))\n"
    "        if returned == sum(abs(int(x) - int(y)) for x, y in zip(a.zfill(n), b.zfill(n))): return True",
    **dict.fromkeys(("similar_elements", "find_char_long", "common_in_nested_lists", "extract_singly"), SETS),
    **dict.fromkeys(("larg_nnum", "intersection_array", "find_dissimilar", "Diff"), SETS),
    **dict.fromkeys(("check_str", "text_match_three", "text_starta_endb"), GIVEN),
}
"""What evalplus accepts besides equality, by the name of the function."""

SECONDS = 20.0
"""Processor seconds of a program for all its inputs."""
ALL = range(10)
TUPLES: Mapping[tuple[tuple[int, ...], tuple[int, ...]], str] = {
    ((0,), tuple(ALL)): "2 116 132 143 222 261 273 394 399 421 424 429 470 560 579 596 616 630 726 740 744 809",
    ((1,), tuple(ALL)): "63 64 70 94 120 237 272 299 400 409 417 438 473 614 780",
    ((1,), (0,)): "75 413 444 753",
    ((0,), (1,)): "106 750",
    ((0,), (0,)): "250 307 405 446 617 720 763 808",
    ((0, 1), tuple(ALL)): "259 278 401 445",
    (tuple(ALL), tuple(ALL)): "580 615 791",
}
"""Which lists of MBPP+ are tuples: (at which depths, in which arguments) and the numbers of the problems."""
PLACES = {int(number): where for where, numbers in TUPLES.items() for number in numbers.split()}


@dataclass(frozen=True, kw_only=True)
class HumanEvalPlus(ProgramSettings):
    """Settings of `humaneval+`."""

    task: ClassVar[str] = "humaneval+"

    path: str = ""
    """HumanEvalPlus.jsonl of evalplus (`.gz` too)."""
    prompt: str = PROMPT
    timeout: Seconds = SECONDS
    """Processor seconds of a program for all its inputs; scaled to the machine's speed."""


@dataclass(frozen=True, kw_only=True)
class MbppPlus(ProgramSettings):
    """Settings of `mbpp+`."""

    task: ClassVar[str] = "mbpp+"

    path: str = ""
    """MbppPlus.jsonl of evalplus (`.gz` too)."""
    prompt: str = MBPP_PROMPT
    timeout: Seconds = SECONDS
    """Processor seconds of a program for all its inputs; scaled to the machine's speed."""


def plus(settings: HumanEvalPlus | MbppPlus) -> Task:
    """The task `humaneval+` or `mbpp+`, whose only split is `test`.

    Raises:
        UserError: no such file, or a row of another form.
    """
    if not settings.path:
        raise UserError(f"{settings.task}: name the file of evalplus: path=...")
    problems = named_apart(keep_good(partial(make_problem, settings=settings), read_rows(settings.path)))
    return settings.make_task({"test": Finite(problems)})


def make_problem(row: Row, settings: HumanEvalPlus | MbppPlus) -> Problem:
    """A row as a problem."""
    identity, question, name = (text_column(row, key) for key in ("task_id", "prompt", "entry_point"))
    humaneval = identity.startswith("HumanEval")
    reference = (question if humaneval else "") + text_column(row, "canonical_solution")
    inputs, atol = [*list_column(row, "base_input"), *list_column(row, "plus_input")], column(row, "atol")
    if isinstance(atol, bool) or not isinstance(atol, (int, float)) or not inputs:
        raise UserError(f"{row.where}: there are no inputs, or atol is no number, but {atol!r:.60}")
    if not humaneval:
        try:
            inputs = [restore_types(int(re.sub(r"\D", "", identity)), one) for one in inputs]
        except (ValueError, TypeError, AttributeError, IndexError) as error:
            raise UserError(f"{row.where}: task_id {identity!r:.60} is no number, or an input is of another form "
                            f"({error})") from error  # fmt: skip
    special = SPECIAL.get(name, "pass").replace("{atol!r}", repr(atol))
    test = CHECK.format(reference=reference, name=name, special=special, atol=atol, inputs=inputs)
    before = code_before(question, name) if humaneval else ""
    answer = Examination(
        tests=(test,),
        setup="from math import inf, nan",  # as `repr` spells them among the inputs
        entry_point=name,
        preamble=before,
        opening=question if humaneval else "",
        timeout=settings.timeout,
    )
    asked = user(settings.prompt.replace("{question}", question.strip()))
    return Problem(identity, (asked,), answer, as_block(reference))


def list_column(row: Row, name: str) -> list[Any]:
    """A value of a row that is a list of lists of arguments; null or empty: none."""
    value = column(row, name) or []
    if not isinstance(value, list) or not all(isinstance(one, list) for one in value):
        raise UserError(f"{row.where}: column '{name}' should be a list of lists of arguments, not {value!r:.60}")
    return value


def restore_types(number: int, arguments: list[Any]) -> list[Any]:
    """The arguments of a problem of MBPP+ as JSON could not hold them."""
    if number in PLACES:
        depths, which = PLACES[number]
        return [as_tuples(one, depths) if index in which else one for index, one in enumerate(arguments)]
    if number == 115:
        return [[set(one) if isinstance(one, list) and one else {} for one in arguments[0]]]
    if number == 124:
        return [float(arguments[0]), complex(arguments[1])]
    if number == 252:
        return [complex(arguments[0])]
    if number == 722:
        return [{key: tuple(value) for key, value in arguments[0].items()}, *arguments[1:]]
    return arguments


def as_tuples(value: Any, depths: tuple[int, ...], depth: int = 0) -> Any:
    """A value with its lists at some depths as tuples."""
    if not isinstance(value, list):
        return value
    parts = [as_tuples(one, depths, depth + 1) for one in value]
    return tuple(parts) if depth in depths else parts
