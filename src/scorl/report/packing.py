"""All recorded attempts of a run as columns: what the report's browser reads, small enough to stand in the page.

{"strings": every distinct text once,
 "trajectories": {column: one value a trajectory}, the newest first; `responses` counts its own,
 "responses": {column: one value a response}, those of the first trajectory first}

Columns of texts hold places in `strings`; null, and -1 in those, is what a line does not say.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from statistics import fmean
from typing import Any

from scorl.errors import UserError
from scorl.report.curves import name_stage
from scorl.report.trajectories import flip_class, gather_trajectories
from scorl.run.directory import RunDirectory
from scorl.run.files import Record

__all__ = ["Packed", "average_lengths", "choose_files", "count_bytes", "list_files", "pack_attempts", "read_flips"]

Packed = dict[str, Any]
File = tuple[int, bool]
"""A step, and whether its attempts are an evaluation's."""

TEXTS = ("role", "verdict", "reason", "answer", "text", "finish")
NUMBERS = ("turn", "reward", "tokens", "prompt_tokens", "policy", "advantage", "beta", "imitation")
LABELS = {"attempt": "t", "verification": "v", "critique": "c"}


def list_files(run: RunDirectory) -> list[File]:
    """All files of attempts, the newest first; the evaluation after n updates is older than step n."""
    files = [(step, held_out) for held_out in (False, True) for step in run.attempted_steps(held_out)]
    return sorted(files, key=lambda file: (-file[0], file[1]))


def count_bytes(run: RunDirectory) -> int:
    """The size of all attempts, as text."""
    return sum(run.attempt_files(held_out).size(step) for step, held_out in list_files(run))


def choose_files(run: RunDirectory, every: int) -> list[File]:
    """Every n-th step of training and n-th evaluation, from the newest back, and the first of each."""
    chosen = set()
    for held_out in (True, False):
        steps = run.attempted_steps(held_out)[::-1]
        chosen |= {(step, held_out) for step in [*steps[::every], *steps[-1:]]}
    return [file for file in list_files(run) if file in chosen]


def pack_attempts(run: RunDirectory, files: Iterable[File], stages: Sequence[tuple[int, str]]) -> Packed:
    """The attempts of some steps and evaluations as columns.

    Args:
        run: whose.
        files: from the newest to the oldest, as `choose_files` gives them.
        stages: (first step, name); an evaluation belongs to the stage before it.
    """
    pool: dict[str, int] = {}
    trajectories: dict[str, list[Any]] = {
        name: []
        for name in (
            "held_out",
            "step",
            "sample",
            "branch",
            "stage",
            "problem",
            "question",
            "gold",
            "flip",
            "responses",
        )
    }
    responses: dict[str, list[Any]] = {name: [] for name in (*TEXTS, *NUMBERS, "offline")}
    for step, held_out in files:
        stage = name_stage(stages, step - held_out)
        for lines in _read_or_warn(run, step, held_out):
            row = {**_describe(lines, pool, stage), "held_out": int(held_out), "step": step}
            for name, column in trajectories.items():
                column.append(row[name])
            for line in lines:
                _append_response(responses, line, pool)
    return {"strings": list(pool), "trajectories": trajectories, "responses": responses}


def _read_or_warn(run: RunDirectory, step: int, held_out: bool) -> list[list[Record]]:
    """The trajectories of a file; none of one that is damaged, for a run of days shall not end without a report."""
    try:
        return list(gather_trajectories(run.attempts([step], held_out)))
    except UserError as error:
        warnings.warn(f"{error}. The report is without that file's attempts", stacklevel=2)
        return []


def read_flips(packed: Packed) -> Iterator[tuple[int, str, str]]:
    """(step, problem, flip class) of the training trajectories with two attempts."""
    strings, columns = packed["strings"], packed["trajectories"]
    names = ("step", "problem", "flip", "held_out")
    for step, problem, flip, held_out in zip(*(columns[name] for name in names), strict=True):
        if flip >= 0 and not held_out:
            yield step, strings[problem], strings[flip]


def average_lengths(packed: Packed) -> dict[int, dict[str, float]]:
    """By training step the mean `tokens_t1`, `tokens_v1`, ... of its attempts."""
    strings, columns = packed["strings"], packed["trajectories"]
    responses = zip(*(packed["responses"][name] for name in ("role", "turn", "tokens")), strict=True)
    found: dict[int, dict[str, list[int]]] = {}
    for step, held_out, count in zip(*(columns[name] for name in ("step", "held_out", "responses")), strict=True):
        for role, turn, tokens in islice(responses, count):
            if not held_out and tokens is not None:
                label = f"tokens_{LABELS.get(strings[role], '')}{turn + 1}"
                found.setdefault(step, {}).setdefault(label, []).append(tokens)
    return {step: {label: fmean(tokens) for label, tokens in of.items()} for step, of in found.items()}


def _describe(lines: Sequence[Record], pool: dict[str, int], stage: str | None) -> Record:
    first = lines[0]
    return {
        "sample": first["sample"],
        "branch": first.get("branch", 0),
        "stage": _place(stage, pool),
        "problem": _place(first["problem"], pool),
        "question": _place(first.get("question"), pool),
        "gold": _place(first.get("gold"), pool),
        "flip": _place(flip_class(list(lines)), pool),
        "responses": len(lines),
    }


def _append_response(responses: dict[str, list[Any]], line: Record, pool: dict[str, int]) -> None:
    line = {"role": "attempt", **line}
    for name in TEXTS:
        responses[name].append(_place(line.get(name), pool))
    for name in NUMBERS:
        responses[name].append(_round(line.get(name)))
    responses["offline"].append(int(bool(line.get("offline"))))


def _place(text: Any, pool: dict[str, int]) -> int:
    return -1 if text is None else pool.setdefault(str(text), len(pool))


def _round(number: Any) -> Any:
    if isinstance(number, float):
        return float(f"{number:.5g}") if math.isfinite(number) else None
    return number
