"""What the runs say together: means over seeds with intervals, and each arm's paired difference to SCoRe."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from scorl.compare.arms import Arm
from scorl.compare.jobs import Run
from scorl.lines import read_lines
from scorl.metrics import Difference, Interval, Tally, over_seeds, paired_over_seeds, tally_outcomes

__all__ = ["Comparison", "Row", "compared"]

ANCHOR = "score"
"""The arm that the others are compared with."""


@dataclass(frozen=True)
class Row:
    """An arm's figures."""

    arm: Arm
    seeds: tuple[int, ...]
    metrics: dict[str, Interval]
    to_score: dict[str, Difference] = field(default_factory=dict)
    """This arm less SCoRe; empty for SCoRe itself, and where SCoRe was not run."""
    fixed: dict[str, Interval] = field(default_factory=dict)
    """Of second attempts at the base's first ones."""
    collected: dict[str, Any] | None = None
    """What entered the data sets of STaR and Pair-SFT, by stage, of the first seed."""

    def as_dict(self) -> dict[str, Any]:
        """The row as JSON."""
        published = self.arm.published
        return {
            "label": self.arm.label,
            "seeds": list(self.seeds),
            "metrics": {n: {"mean": i.value, "low": i.low, "high": i.high} for n, i in self.metrics.items()},
            "to_score": {n: asdict(d) for n, d in self.to_score.items()},
            "fixed": {n: {"mean": i.value, "low": i.low, "high": i.high} for n, i in self.fixed.items()},
            "collected": self.collected,
            "paper_math500": published and dict(zip(("accuracy_t1", "accuracy_t2", "delta"), published, strict=True)),
        }


@dataclass(frozen=True)
class Comparison:
    """The whole table."""

    about: dict[str, Any]
    """Model, task, problems, steps: what is the same in every row."""
    rows: tuple[Row, ...]

    def as_dict(self) -> dict[str, Any]:
        """The table as JSON: `{"about": ..., "arms": {name: row}}`."""
        return {"about": self.about, "arms": {row.arm.name: row.as_dict() for row in self.rows}}


def compared(runs: Sequence[Run]) -> Comparison:
    """The table of the runs that are done; an arm without one has no row."""
    done = [run for run in runs if run.done]
    arms = list(dict.fromkeys(run.arm for run in runs))
    of = {arm: [run for run in done if run.arm == arm] for arm in arms}
    tallies = {arm: [_tally(_evaluation(run)) for run in mine] for arm, mine in of.items() if mine}
    anchor = next((arm for arm in tallies if arm.name == ANCHOR), None)
    rows = [_row(arm, of[arm], tallies, anchor) for arm in tallies]
    return Comparison(_about(done) if done else {}, tuple(rows))


def _row(arm: Arm, runs: Sequence[Run], tallies: dict[Arm, list[Tally]], anchor: Arm | None) -> Row:
    seeds = tuple(run.seed for run in runs)
    paired: dict[str, Difference] = {}
    if anchor and anchor != arm:
        paired = paired_over_seeds(*_matched(arm, seeds, tallies, anchor))
    fixed = [_tally(evaluation["fixed"]) for run in runs if "fixed" in (evaluation := _evaluation(run))]
    return Row(arm, seeds, over_seeds(tallies[arm]), paired, over_seeds(fixed) if fixed else {}, _collected(runs[0]))


def _matched(
    arm: Arm, seeds: Sequence[int], tallies: dict[Arm, list[Tally]], anchor: Arm
) -> tuple[list[Tally], list[Tally]]:
    """SCoRe's tallies and the arm's, of equally many seeds (both begin with the same ones)."""
    theirs, ours = tallies[anchor], tallies[arm]
    if not arm.trains:
        return theirs, ours
    size = min(len(theirs), len(ours))
    return theirs[:size], ours[:size]


def _evaluation(run: Run) -> dict[str, Any]:
    assert run.evaluation is not None
    return run.evaluation


def _tally(evaluation: dict[str, Any]) -> Tally:
    return tally_outcomes(evaluation["outcomes"], evaluation.get("edit_ratios"))


def _collected(run: Run) -> dict[str, Any] | None:
    found = {line["stage"]: line["collected"] for line in _steps(run.directory) if "collected" in line}
    return found or None


def _steps(directory: Path) -> Iterable[dict[str, Any]]:
    path = directory / "steps.jsonl"
    return read_lines(path) if path.exists() else ()


def _about(done: Sequence[Run]) -> dict[str, Any]:
    recipe = next((run.recipe for run in done if run.recipe.stages), done[0].recipe)
    evaluation = _evaluation(done[0])
    return {
        "model": recipe.model.path,
        "task": recipe.task.name,
        "split": recipe.evaluation.split,
        "test_problems": evaluation["problems"],
        "temperature": recipe.evaluation.temperature,
        "steps": recipe.steps,
        "problems_a_step": recipe.stages[-1].problems if recipe.stages else None,
        "samples_a_problem": recipe.stages[-1].samples if recipe.stages else None,
    }
