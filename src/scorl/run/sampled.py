"""Sampling that goes on where it was interrupted: what each problem gave is in a file of attempts at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from scorl.engines.engine import Engine
from scorl.errors import UserError
from scorl.rollout import Draws, rollout
from scorl.run.files import Record, read_all, response_records, to_lines, write_whole
from scorl.tasks.task import Task
from scorl.tasks.turns import Turn
from scorl.trajectory import Group, Problem, Response, Trajectory, Verdict

__all__ = ["read_groups", "sample_to_file"]


def sample_to_file(
    path: Path,
    engine: Callable[[], Engine],
    task: Task,
    problems: Sequence[Problem],
    turns: Sequence[Turn],
    draws: Draws,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Group]:
    """The judged groups of all problems, in order; those that stand in the file whole are not sampled again.

    Args:
        path: the file of attempts, which need not be there yet.
        engine: makes the engine where there is something left to sample.
        task: judges.
        problems: what is asked.
        turns: what follows the first attempt.
        draws: how many, how, and by which seeds.
        progress: is told (problems done, problems in all).

    Raises:
        UserError: a line of the file is no attempt.
    """
    size = draws.samples * (1 + len(turns))
    done = {name: records for name, records in _by_problem(read_all(path)).items() if len(records) == size}
    if path.exists():  # a problem that a kill cut is asked again
        write_whole(path, to_lines(record for records in done.values() for record in records))
    left = [problem for problem in problems if problem.id not in done]
    if left:
        writer, total = engine(), len(problems)
        chunk = max(1, writer.batch_size // draws.samples)
        for start in range(0, len(left), chunk):
            asked = left[start : start + chunk]
            groups = rollout(writer, task, asked, turns, draws)
            records = [record for group in groups for t in group for record in response_records(0, t)]
            with path.open("a", encoding="utf-8", errors="backslashreplace") as handle:
                handle.write(to_lines(records))
            done |= _by_problem(records)
            progress(total - len(left) + start + len(asked), total)
    return list(read_groups((done[problem.id] for problem in problems), problems))


def read_groups(records: Iterable[Sequence[Record]], problems: Sequence[Problem]) -> Iterator[Group]:
    """The groups of problems from their records: texts, tokens and verdicts, without ids."""
    for problem, lines in zip(problems, records, strict=True):
        samples: dict[int, list[Response]] = {}
        for line in lines:
            samples.setdefault(line["sample"], []).append(_read_response(line))
        yield [Trajectory(problem, sample, tuple(responses)) for sample, responses in samples.items()]


def _by_problem(records: Iterable[Record]) -> dict[str, list[Record]]:
    gathered: dict[str, list[Record]] = {}
    for record in records:
        if not {"problem", "sample", "text", "reward", "answer"} <= record.keys():
            raise UserError("a file of attempts has a line that is none: take another folder for --out")
        gathered.setdefault(record["problem"], []).append(record)
    return gathered


def _read_response(line: Record) -> Response:
    verdict = None
    if line["reward"] is not None:
        verdict = Verdict(line["reward"], line["verdict"], line["reason"], line["answer"])
    counted = -1 if line["tokens"] is None else line["tokens"]
    return Response((), (), (), line["text"], line["finish"], verdict, line["role"], counted=counted)
