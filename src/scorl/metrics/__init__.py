"""The metrics of self-correction and how sure they are; no model and no torch needed."""

from scorl.metrics.accuracy import HEADLINES, Tally, edit_ratios, measure, outcomes, tally, tally_outcomes
from scorl.metrics.alarms import Alarm, alarms, raised
from scorl.metrics.edits import answer_changed, edit_ratio
from scorl.metrics.intervals import (
    Difference,
    Interval,
    bootstrap_differences,
    bootstrap_intervals,
    measure_intervals,
)
from scorl.metrics.significance import delta_p, mcnemar, wilson

__all__ = [
    "HEADLINES",
    "Alarm",
    "Difference",
    "Interval",
    "Tally",
    "alarms",
    "answer_changed",
    "bootstrap_differences",
    "bootstrap_intervals",
    "delta_p",
    "edit_ratio",
    "edit_ratios",
    "mcnemar",
    "measure",
    "measure_intervals",
    "outcomes",
    "raised",
    "tally",
    "tally_outcomes",
    "wilson",
]
