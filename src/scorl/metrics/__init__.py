"""The metrics of self-correction and how sure they are; no model and no torch needed."""

from scorl.metrics.accuracy import HEADLINES, Tally, edit_ratios, measure, outcomes, tally, tally_outcomes
from scorl.metrics.alarms import Alarm, alarms, raised
from scorl.metrics.edits import answer_changed, edit_ratio
from scorl.metrics.hierarchy import over_seeds, paired_over_seeds
from scorl.metrics.intervals import Difference, Interval, delta_p, mcnemar, paired, wilson, with_intervals

__all__ = [
    "HEADLINES",
    "Alarm",
    "Difference",
    "Interval",
    "Tally",
    "alarms",
    "answer_changed",
    "delta_p",
    "edit_ratio",
    "edit_ratios",
    "mcnemar",
    "measure",
    "outcomes",
    "over_seeds",
    "paired",
    "paired_over_seeds",
    "raised",
    "tally",
    "tally_outcomes",
    "wilson",
    "with_intervals",
]
