"""The metrics of self-correction and how sure they are; no model and no torch needed."""

from scorl.metrics.accuracy import Tally, measure, outcomes, tally, tally_outcomes
from scorl.metrics.edits import answer_changed, edit_ratio
from scorl.metrics.intervals import Difference, Interval, delta_p, mcnemar, paired, wilson, with_intervals

__all__ = [
    "Difference",
    "Interval",
    "Tally",
    "answer_changed",
    "delta_p",
    "edit_ratio",
    "mcnemar",
    "measure",
    "outcomes",
    "paired",
    "tally",
    "tally_outcomes",
    "wilson",
    "with_intervals",
]
