"""A plan as tables: memory part by part, time stage by stage, and what would make it fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from scorl.estimate.device import GIB
from scorl.estimate.plan import Case, Memory, StagePlan
from scorl.estimate.suggestions import Suggestion
from scorl.report.table import Grid
from scorl.settings import Sampling

__all__ = ["Estimate"]

MIB = 2**20
WHOLE_SPLIT = 500
"""Problems that a whole split is taken to have, as MATH500 has."""


@dataclass(frozen=True)
class Estimate:
    """What is to be expected of a recipe on a device."""

    case: Case
    memory: Memory
    stages: tuple[StagePlan, ...]
    problems: tuple[str, ...]
    """What does not fit."""
    suggestions: tuple[Suggestion, ...]
    """What would."""
    measured: float | None = None
    """Bytes at the height of measured steps, from which the seconds are too; None: estimated."""

    @property
    def evaluations(self) -> tuple[int, float]:
        """How many there are, and seconds of one: as sampling takes them by trajectory."""
        settings, steps = self.case.recipe.evaluation, self.case.recipe.steps
        count = len({0, steps, *(range(0, steps, settings.eval_steps) if settings.eval_steps else ())})
        each = max(stage.sample / stage.rows for stage in self.stages)
        return count, each * self.case.count * (settings.problems or WHOLE_SPLIT) * settings.samples

    @property
    def seconds(self) -> float:
        """Of the whole run, but for loading and saving."""
        count, each = self.evaluations
        return sum(stage.seconds for stage in self.stages) + count * each

    def as_dict(self) -> dict[str, Any]:
        """The plan as JSON has it: bytes, seconds, operations."""
        count, each = self.evaluations
        case = self.case
        return {
            "device": asdict(case.device) | {"usable": case.device.usable},
            "devices": case.count,
            "lengths": asdict(case.lengths),
            "memory": asdict(self.memory)
            | {
                "at_sampling": self.memory.at_sampling,
                "at_learning": self.memory.at_learning,
                "measured": self.measured,
            },
            "fits": not self.problems,
            "problems": self.problems,
            "suggestions": [asdict(suggestion) for suggestion in self.suggestions],
            "stages": [stage.as_dict() for stage in self.stages],
            "evaluations": {"count": count, "seconds": each},
            "seconds": self.seconds,
            "device_hours": case.count * self.seconds / 3600,
        }

    def grids(self) -> list[Grid]:
        """Memory and time, and what would make it fit where it does not."""
        grids = [self._memory(), self._time()]
        if self.problems:
            rows = [(s.change, f"{s.bytes / GIB:.1f}") for s in self.suggestions] or [
                ("nothing that is known here", "")
            ]
            grids.append(Grid("What would make it fit", ("change", "GiB on each device"), tuple(rows)))
        return grids

    def _memory(self) -> Grid:
        sampling, learning, case = self.memory.sampling, self.memory.learning, self.case
        unit, size = ("GiB", GIB) if self.memory.peak > GIB else ("MiB", MIB)

        def cell(parts: Mapping[str, float], part: str) -> str:
            return f"{parts[part] / size:,.1f}" if part in parts else ""

        rows = [(part, cell(sampling, part), cell(learning, part)) for part in {**learning, **sampling}]
        totals = (self.memory.at_sampling / size, self.memory.at_learning / size)
        rows.append(("together", f"{totals[0]:,.1f}", f"{totals[1]:,.1f}"))
        notes = self.problems or (f"Fits: {case.device.usable / GIB:.1f} GiB can be filled on each device.",)
        if self.measured:
            notes = (*notes, f"The process at the height of the measured steps: {self.measured / MIB:,.0f} MiB.")
        name = f"{case.recipe.model.path}, {case.recipe.model.dtype}; {case.count} x {case.device.name}"
        return Grid(name, (f"{unit} on each device", "sampling", "learning"), tuple(rows), notes)

    def _time(self) -> Grid:
        count, each = self.evaluations
        rows = [_stage_row(stage) for stage in self.stages]
        rows.append(("evaluations", f"{count}", *[""] * 6, _seconds(each), _hours(count * each)))
        rows.append(("together", *[""] * 8, _hours(self.seconds)))
        figures = ("steps", "tokens", "micro-batches", "TFLOP", "sample s", "learn s", "exchange s", "step s", "hours")
        return Grid("A step on each device, and all steps", ("stage", *figures), tuple(rows), tuple(self._notes()))

    def _notes(self) -> Sequence[str]:
        lengths, device = self.case.lengths, self.case.device
        half, single = device.half / 1e12, device.single / 1e12
        roofline = f"a roofline of {half:.3g} TFLOP/s, {single:.3g} in float32, {device.bandwidth / 1e9:,.0f} GB/s"
        return (
            f"Seconds by {'measured steps' if self.measured else roofline}; "
            f"device hours {self.case.count * self.seconds / 3600:,.3g}.",
            f"Tokens: prompts {lengths.prompt}{' (assumed)' if lengths.assumed else ''}, further turns {lengths.turn}, "
            f"responses {lengths.response}, at most {Sampling(max_tokens=lengths.limit).describe_limits()}.",
        )


def _stage_row(stage: StagePlan) -> tuple[str, ...]:
    seconds = map(_seconds, (stage.sample, stage.learn, stage.exchange, stage.step))
    tokens, batches = f"{stage.tokens:,.0f}", f"{stage.micro_batches:.0f}"
    return stage.label, f"{stage.steps}", tokens, batches, f"{stage.flops / 1e12:,.3g}", *seconds, _hours(stage.seconds)


def _seconds(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:,.3g}"
