"""The metrics of self-correction and how sure they are; no model and no torch needed."""

from scorl.metrics.accuracy import HEADLINES, VERIFIED, Tally, edit_ratios, measure, tally, tally_outcomes
from scorl.metrics.alarms import (
    ADVICE,
    Alarm,
    describe_alarms,
    find_alarms,
    find_crowded,
    share_out_of_context,
)
from scorl.metrics.edits import answer_changed, edit_ratio
from scorl.metrics.intervals import (
    Difference,
    Interval,
    bootstrap_differences,
    bootstrap_intervals,
    measure_intervals,
)
from scorl.metrics.significance import correct_for_many, delta_p, fisher, mcnemar, wilson
from scorl.metrics.words import Ending, attempts_right, count_tokens, outcomes, tokens

__all__ = [
    "ADVICE",
    "HEADLINES",
    "VERIFIED",
    "Alarm",
    "Difference",
    "Ending",
    "Interval",
    "Tally",
    "answer_changed",
    "attempts_right",
    "bootstrap_differences",
    "bootstrap_intervals",
    "correct_for_many",
    "count_tokens",
    "delta_p",
    "describe_alarms",
    "edit_ratio",
    "edit_ratios",
    "find_alarms",
    "find_crowded",
    "fisher",
    "mcnemar",
    "measure",
    "measure_intervals",
    "outcomes",
    "share_out_of_context",
    "tally",
    "tally_outcomes",
    "tokens",
    "wilson",
]
