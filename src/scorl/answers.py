"""Answers that exist already, measured without a model: a JSONL file with one line for each conversation.

{"id": "gsm8k-7", "attempts": ["The answer is 4.", "It is 5."], "model": "m", "wording": "neutral", "sampling": {...}}

Several lines with the same id, model and wording are several samples. `sampling` may say `temperature`, `max_tokens`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from scorl.errors import UserError, nearest
from scorl.evaluation import Evaluation
from scorl.rollout import judge
from scorl.settings import EvaluationSettings
from scorl.tasks.task import Task
from scorl.text_files import parse_json, read_text
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
    _check_panels(asked)
    return [_evaluate(lines, problems, task, split) for lines in asked.values()]


def _check_panels(asked: Mapping[tuple[str, str | None], Sequence[Line]]) -> None:
    """Whether each model's wordings are about the same conversations, as rows of one table must be."""
    first: dict[str, Sequence[Line]] = {}
    for (model, _), lines in asked.items():
        before = first.setdefault(model, lines)
        if sorted((line.id, len(line.attempts)) for line in lines) != sorted(
            (line.id, len(line.attempts)) for line in before
        ):
            raise UserError(
                f"{lines[0].where}: of '{model}' the wording {lines[0].wording!r} has other problems, samples or "
                f"numbers of attempts than {before[0].wording!r}, and they share a table"
            )


def _evaluate(lines: Sequence[Line], problems: Mapping[str, Problem], task: Task, split: str) -> Evaluation:
    first = lines[0]
    by_problem: dict[str, list[Line]] = {}
    for line in lines:
        if len(line.attempts) != len(first.attempts):
            raise UserError(
                f"{line.where}: {len(line.attempts)} attempts, and {len(first.attempts)} in {first.where}; "
                "every problem gets all its turns, also after a right attempt"
            )
        if line.sampling != first.sampling:
            raise UserError(f"{line.where}: its sampling is not that of {first.where}; give the model another name")
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
    row = parse_json(text, where)
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
    temperature, max_tokens = sampling.get("temperature", 0), sampling.get("max_tokens", 1)
    if type(temperature) not in (int, float) or not 0 <= temperature < math.inf:
        raise UserError(f"{where}: sampling.temperature should be a number from 0, not {temperature!r:.60}")
    limits = max_tokens if isinstance(max_tokens, list) and max_tokens else [max_tokens]
    if any(type(limit) is not int or limit < 1 for limit in limits):
        raise UserError(
            f"{where}: sampling.max_tokens should be a whole number from 1, or a list of them, not {max_tokens!r:.60}"
        )
    for key, value in (("id", row["id"]), ("model", row.get("model") or "answers"), ("wording", wording)):
        if (value is None and key != "wording") or value == "" or isinstance(value, (list, dict)):
            raise UserError(f"{where}: {key} should be a text, not {value!r:.60}")
    name = None if wording is None else str(wording)
    return Line(where, str(row["id"]), tuple(attempts), str(row.get("model") or "answers"), name, sampling)
