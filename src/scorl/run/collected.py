"""Collected rollouts in a run directory.

collected/stage-0/step-000003.jsonl     the groups of the stage's fourth step, one trajectory a line
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scorl.distributed.ranks import ALONE, Ranks
from scorl.errors import UserError
from scorl.run.files import read_lines, write_text
from scorl.trajectory import Attempt, Group, Problem, Trajectory, Verdict

__all__ = ["FileRolloutStore"]


@dataclass(frozen=True)
class FileRolloutStore:
    """Keeps them in a folder, which one rank alone touches; `progress` is told (steps collected, steps) after each.

    The sampler's log-probabilities are not kept: what is imitated does not need them.
    """

    folder: Path
    progress: Callable[[int, int], None]
    ranks: Ranks = ALONE

    def read(self, stage: int, index: int, problems: Sequence[Problem]) -> list[Group] | None:
        """See `RolloutStore`.

        Raises:
            UserError: the file is about other problems.
        """
        return self.ranks.broadcast(lambda: self._read(stage, index, problems), "what was collected before")

    def _read(self, stage: int, index: int, problems: Sequence[Problem]) -> list[Group] | None:
        path = self._path(stage, index)
        if not path.exists():
            return None
        lines = list(read_lines(path))
        size = len(lines) // len(problems)
        groups = [lines[i : i + size] for i in range(0, len(lines), size or 1)]
        if [group[0]["problem"] for group in groups] != [problem.id for problem in problems]:
            raise UserError(f"{path}: holds attempts at other problems than the run draws; delete {self.folder}")
        return [[_trajectory(line, p) for line in group] for group, p in zip(groups, problems, strict=True)]

    def write(self, stage: int, index: int, steps: int, groups: Sequence[Group]) -> None:
        """See `RolloutStore`."""
        if self.ranks.main:
            path = self._path(stage, index)
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = [json.dumps(_line(t), ensure_ascii=False) + "\n" for group in groups for t in group]
            write_text(path, "".join(lines))
        self.progress(index + 1, steps)

    def _path(self, stage: int, index: int) -> Path:
        return self.folder / f"stage-{stage}" / f"step-{index:06d}.jsonl"


def _line(trajectory: Trajectory) -> dict[str, Any]:
    """A trajectory; a response's tokens are told by where they lie in the last attempt's context."""
    last = trajectory.attempts[-1]
    return {
        "problem": trajectory.problem.id,
        "sample": trajectory.sample,
        "branch": trajectory.branch,
        "ids": [*last.prompt_ids, *last.ids],
        "attempts": [
            {
                "from": len(a.prompt_ids),
                "to": len(a.prompt_ids) + len(a.ids),
                "text": a.text,
                "finish": a.finish,
                "reward": a.reward,
                "verdict": a.verdict.outcome,
                "reason": a.verdict.reason,
                "answer": a.verdict.answer,
                "policy": a.policy,
                "given": a.given,
                "critiques": a.critiques,
            }
            for a in trajectory.attempts
        ],
    }


def _trajectory(line: dict[str, Any], problem: Problem) -> Trajectory:
    ids = tuple(line["ids"])
    attempts = tuple(
        Attempt(
            turn=turn,
            prompt_ids=ids[: a["from"]],
            ids=ids[a["from"] : a["to"]],
            logprobs=(0.0,) * (a["to"] - a["from"]),
            text=a["text"],
            finish=a["finish"],
            verdict=Verdict(a["reward"], a["verdict"], a["reason"], a["answer"]),
            policy=a["policy"],
            given=a["given"],
            critiques=tuple(a["critiques"]),
        )
        for turn, a in enumerate(line["attempts"])
    )
    return Trajectory(problem, line["sample"], attempts, line["branch"])
