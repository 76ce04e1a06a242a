"""Collected rollouts in a run directory: the groups of each step of a stage, one trajectory a record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from scorl.errors import DamagedError, UserError
from scorl.run.directory import RunDirectory
from scorl.run.files import Record
from scorl.trajectory import Group, Problem, Response, Trajectory, Verdict

__all__ = ["FileRolloutStore"]


KEYS = {"problem", "sample", "branch", "ids", "responses"}
"""What every record has."""


@dataclass(frozen=True)
class FileRolloutStore:
    """Keeps them in a run directory; `progress` is told (steps collected, steps) after each.

    The sampler's log-probabilities are not kept: what is imitated does not need them.
    """

    directory: RunDirectory
    progress: Callable[[int, int], None]

    def read(self, stage: int, index: int, problems: Sequence[Problem]) -> list[Group] | None:
        """See `RolloutStore`.

        Raises:
            DamagedError: a file is not what was written.
            UserError: what is there is about other problems, or written by a version of scorl with other records.
        """
        records = self.directory.collection(stage, index)
        if records is None:
            return None
        folder = self.directory.collected(stage)
        if not all(record.keys() >= KEYS for record in records):
            raise UserError(f"{folder}: was collected by another version of scorl; delete it")
        size, rest = divmod(len(records), len(problems))
        if rest or not size:  # of a version before the checksum
            damage = f"step {index}: {len(records)} trajectories at {len(problems)} problems"
            raise DamagedError(f"{folder} is damaged: {damage}")
        groups = [records[i : i + size] for i in range(0, len(records), size)]
        if [group[0]["problem"] for group in groups] != [problem.id for problem in problems]:
            raise UserError(f"{folder}: holds attempts at other problems than the run draws; delete it")
        return [[_trajectory(record, p) for record in group] for group, p in zip(groups, problems, strict=True)]

    def write(self, stage: int, index: int, steps: int, groups: Sequence[Group]) -> None:
        """See `RolloutStore`."""
        self.directory.record_collection(stage, index, [_record(t) for group in groups for t in group])
        self.progress(index + 1, steps)


def _record(trajectory: Trajectory) -> Record:
    """A trajectory; a response's tokens are a range of the last one's context."""
    last = trajectory.responses[-1]
    return {
        "problem": trajectory.problem.id,
        "sample": trajectory.sample,
        "branch": trajectory.branch,
        "dropped_tokens": trajectory.dropped_tokens,
        "ids": [*last.prompt_ids, *last.ids],
        "responses": [
            {
                "role": r.role,
                "from": len(r.prompt_ids),
                "to": len(r.prompt_ids) + len(r.ids),
                "text": r.text,
                "finish": r.finish,
                "verdict": r.verdict and asdict(r.verdict),
                "policy": r.policy,
                "offline": r.offline,
            }
            for r in trajectory.responses
        ],
    }


def _trajectory(record: Record, problem: Problem) -> Trajectory:
    ids = tuple(record["ids"])
    responses = tuple(
        Response(
            prompt_ids=ids[: r["from"]],
            ids=ids[r["from"] : r["to"]],
            logprobs=(0.0,) * (r["to"] - r["from"]),
            text=r["text"],
            finish=r["finish"],
            verdict=r["verdict"] and Verdict(**r["verdict"]),
            role=r["role"],
            policy=r["policy"],
            offline=r["offline"],
        )
        for r in record["responses"]
    )
    dropped = record.get("dropped_tokens", 0)  # files of older versions have none
    return Trajectory(problem, record["sample"], responses, record["branch"], dropped)
