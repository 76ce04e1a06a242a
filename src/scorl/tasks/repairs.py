"""Wrong programs of a model as first attempts to be repaired: what `mbpp-repair` reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from scorl.trajectory import Group
from scorl.verifiers.program import read_program

__all__ = ["collect_wrong_programs"]


def collect_wrong_programs(groups: Sequence[Group]) -> tuple[list[dict[str, Any]], Counter[str]]:
    """The distinct wrong programs among first attempts at problems of `mbpp`.

    Returns:
        Lines `{"task_id", "program", "verdict", "reason"}` in the order of the problems, and what became of the
        samples: `kept`, `right`, `without a program`, `repeated`.
    """
    kept: dict[tuple[int, str], dict[str, Any]] = {}
    fates: Counter[str] = Counter()
    for trajectory in (t for group in groups for t in group):
        problem, attempt = trajectory.problem, trajectory.attempts[0]
        program = read_program(attempt.text, problem.answer)
        number = int(problem.id.removeprefix("mbpp-"))
        if attempt.right:
            fates["right"] += 1
        elif program is None:
            fates["without a program"] += 1
        elif (number, program) in kept:
            fates["repeated"] += 1
        else:
            fates["kept"] += 1
            verdict = attempt.verdict
            outcome, reason = (verdict.outcome, verdict.reason) if verdict else ("", "")
            kept[number, program] = {"task_id": number, "program": program, "verdict": outcome, "reason": reason}
    return list(kept.values()), fates
