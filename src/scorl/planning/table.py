"""A plan as tables: memory part by part, time stage by stage, and what would make it fit."""

from __future__ import annotations

from collections.abc import Iterator

from scorl.planning.estimate import Estimate, StageEstimate
from scorl.report.table import Grid

__all__ = ["grids"]

GIB = 2**30


def grids(plan: Estimate) -> tuple[Grid, ...]:
    """Memory and time, and the remedies where it does not fit."""
    found = (_memory(plan), _time(plan))
    return found if plan.fits else (*found, _remedies(plan))


def _memory(plan: Estimate) -> Grid:
    m, setup = plan.memory, plan.setup
    rows = [(name, _gib(value), _gib(value)) for name, value in m.always.items()]
    for name in dict.fromkeys((*m.sample, *m.learn)):
        rows.append((name, _gib(m.sample.get(name)), _gib(m.learn.get(name))))
    rows.append(("together", _gib(m.at_sampling), _gib(m.at_learning)))
    verdict = "fits" if plan.fits else "DOES NOT FIT"
    note = f"{verdict}: {_gib(m.peak)} GiB of {_gib(setup.device.usable())} that can be filled on each device."
    return Grid(_title(plan), ("GiB on each device", "sampling", "learning"), tuple(rows), (note,))


def _time(plan: Estimate) -> Grid:
    rows = [_stage_row(stage) for stage in plan.stages]
    rows.append(
        (
            "evaluations",
            f"{plan.evaluations}",
            *[""] * 6,
            f"{_seconds(plan.evaluation)}",
            _hours(plan.evaluations * plan.evaluation),
        )
    )
    rows.append(("together", *[""] * 8, _hours(plan.seconds)))
    header = (
        "stage",
        "steps",
        "tokens",
        "micro-batches",
        "TFLOP",
        "sample s",
        "learn s",
        "exchange s",
        "step s",
        "hours",
    )
    return Grid("A step on each device, and all steps", header, tuple(rows), tuple(_notes(plan)))


def _stage_row(stage: StageEstimate) -> tuple[str, ...]:
    time = stage.time
    return (
        stage.label,
        f"{stage.steps}",
        f"{stage.tokens:,.0f}",
        f"{stage.micro_batches}",
        f"{time.flops / 1e12:,.3g}",
        *map(_seconds, (time.sample, time.learn, time.exchange, time.seconds)),
        _hours(stage.seconds),
    )


def _remedies(plan: Estimate) -> Grid:
    rows = tuple((remedy.change, _gib(remedy.bytes)) for remedy in plan.remedies)
    if not rows:
        rows = (("nothing that this planner knows", ""),)
    return Grid("What would make it fit", ("change", "GiB on each device"), rows)


def _title(plan: Estimate) -> str:
    setup = plan.setup
    devices = f"{setup.count} x {setup.device.name}" + (f", {setup.parallel}" if setup.count > 1 else "")
    learned = "adapters" if setup.lora else "all weights"
    return (
        f"{setup.shape.parameters / 1e6:,.1f}M parameters in {setup.dtype}, {learned} learn; {setup.engine}; {devices}"
    )


def _notes(plan: Estimate) -> Iterator[str]:
    setup, rates = plan.setup, plan.setup.rates
    yield f"Device hours: {plan.device_hours:,.3g}" + (
        "." if plan.cost is None else f"; cost {plan.cost:,.2f} at {plan.price:g} an hour and device."
    )
    source = "measured here" if setup.device.measured else f"{setup.efficiency:.0%} of the data sheet's operations"
    yield (
        f"Rates ({source}): {rates.many.flops / 1e12:.3g} TFLOP/s, {rates.many.bandwidth / 1e9:,.0f} GB/s; "
        f"decoding {rates.few.flops / 1e12:.3g} TFLOP/s."
    )
    told = [f"{r.asked:.0f} + {r.tokens:.0f} (longest {r.longest:.0f})" for r in setup.lengths.responses]
    yield f"Tokens asked + written, by turn: {'; '.join(told)}; {setup.lengths.distinct:.0%} of the written distinct."


def _gib(value: float | None) -> str:
    return "" if value is None else f"{value / GIB:.2f}"


def _seconds(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:,.3g}"
