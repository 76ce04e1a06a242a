"""Answers that exist already, measured without a model: a JSONL file with one line for each conversation.

{"id": "gsm8k-7", "attempts": ["The answer is 4.", "It is 5."], "model": "m", "wording": "neutral", "sampling": {...}}

Several lines with the same id, model and wording are several samples. `sampling` may say `temperature`, `max_tokens`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from scorl.errors import UserError, nearest
from scorl.evaluation import Evaluation
from scorl.rollout import judge
from scorl.settings import EvaluationSettings
from scorl.tasks.task import Task
from scorl.text_files import read_text
from scorl.trajectory import Group, Problem, Response, Trajectory

__all__ = ["evaluate_answers"]


@dataclass(frozen=True)
class Line:
    """One conversation."""

    where: str
    id: str
    attempts: tuple[str, ...]
    model: str
    wording: str | None
    sampling: Mapping[str, Any]


KEYS = tuple(field.name for field in fields(Line) if field.name != "where")


def evaluate_answers(path: Path, task: Task, split: str) -> list[Evaluation]:
    """The evaluations of a file, one for each model and wording in it, in the file's order.

    Raises:
        UserError: a line is of another form, names a problem that the split lacks, or has other numbers of attempts or
            samples than the rest.
    """
    problems = {problem.id: problem for problem in task.split(split).take(None)}
    asked: dict[tuple[str, str | None], list[Line]] = {}
    for line in _read_lines(path):
        if line.id not in problems:
            raise UserError(
                f"{line.where}: the split '{split}' of task '{task.name}' has no problem '{line.id}': "
                f"{nearest(line.id, problems)}"
            )
        asked.setdefault((line.model, line.wording), []).append(line)
    if not asked:
        raise UserError(f"{path}: there is no answer in it")
    return [_evaluate(lines, problems, task, split) for lines in asked.values()]


def _evaluate(lines: Sequence[Line], problems: Mapping[str, Problem], task: Task, split: str) -> Evaluation:
    first = lines[0]
    by_problem: dict[str, list[Line]] = {}
    for line in lines:
        if len(line.attempts) != len(first.attempts):
            raise UserError(
                f"{line.where}: {len(line.attempts)} attempts, and {len(first.attempts)} in {first.where}; "
                "every problem gets all its turns, also after a right attempt"
            )
        by_problem.setdefault(line.id, []).append(line)
    samples = len(next(iter(by_problem.values())))
    for name, several in by_problem.items():
        if len(several) != samples:
            raise UserError(f"{several[-1].where}: {len(several)} samples of '{name}', and {samples} of {first.id}")
    groups = [
        [Trajectory(problems[name], number, _responses(line)) for number, line in enumerate(several)]
        for name, several in by_problem.items()
    ]
    settings = EvaluationSettings(
        problems=None, temperature=first.sampling.get("temperature", float("nan")), samples=samples, split=split
    )
    judged: tuple[Group, ...] = tuple(judge(task, (), groups))
    return Evaluation(
        first.model,
        task.name,
        settings,
        len(first.attempts),
        first.sampling.get("max_tokens"),
        None,
        judged,
        task.settings,
        wording=first.wording,
    )


def _responses(line: Line) -> tuple[Response, ...]:
    return tuple(Response((), (), (), text, "stop") for text in line.attempts)


def _read_lines(path: Path) -> Iterator[Line]:
    for number, text in enumerate(read_text(path).split("\n"), 1):
        if text.strip():
            yield _read_line(text, f"{path}, line {number}")


def _read_line(text: str, where: str) -> Line:
    try:
        row = json.loads(text)
    except ValueError as error:
        raise UserError(f"{where}: no JSON: {error}") from None
    if not isinstance(row, dict):
        raise UserError(f'{where}: want {{"id": ..., "attempts": [...]}}')
    for key in row.keys() - set(KEYS):
        raise UserError(f"{where}: unknown key '{key}': {nearest(key, KEYS)}")
    for key in ("id", "attempts"):
        if key not in row:
            raise UserError(f"{where}: no '{key}'; the line has: {', '.join(row) or 'nothing'}")
    attempts, sampling, wording = row["attempts"], row.get("sampling") or {}, row.get("wording")
    if not isinstance(attempts, list) or not attempts or not all(isinstance(a, str) for a in attempts):
        raise UserError(f"{where}: attempts should be a list of texts, not {attempts!r:.60}")
    if not isinstance(sampling, dict):
        raise UserError(f'{where}: sampling should be like {{"temperature": 0}}, not {sampling!r:.60}')
    for key, kinds in (("temperature", (int, float)), ("max_tokens", (int,))):
        if not isinstance(sampling.get(key, 0), kinds) or isinstance(sampling.get(key), bool):
            raise UserError(f"{where}: sampling.{key} should be a number, not {sampling[key]!r:.60}")
    name = None if wording is None else str(wording)
    return Line(where, str(row["id"]), tuple(attempts), str(row.get("model", "answers")), name, sampling)
