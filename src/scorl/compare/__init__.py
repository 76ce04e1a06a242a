"""The paper's comparison: every method from one recipe, over seeds, in one table.

arms = parse_arms("score,multi_turn")               # what is compared
runs = plan_runs(recipe, arms, seeds=5, out=out)    # ordinary run directories
execute_runs(runs, out, jobs=2, report=print)       # resumable, and reused when they are there
comparison = summarize_runs(runs)                   # means over seeds, intervals, paired differences
"""

from scorl.compare.arms import Arm, parse_arms
from scorl.compare.jobs import Run, execute_runs, plan_runs
from scorl.compare.methods import METHODS
from scorl.compare.results import ArmResult, Comparison, summarize_runs
from scorl.compare.table import tabulate_comparison, tabulate_equal_tokens
from scorl.compare.tokens import EqualTokens, compare_at_equal_tokens
from scorl.compare.tuning import Tuned, choose_values, parse_tuning, pick_arms, plan_trials

__all__ = [
    "METHODS",
    "Arm",
    "ArmResult",
    "Comparison",
    "EqualTokens",
    "Run",
    "Tuned",
    "choose_values",
    "compare_at_equal_tokens",
    "execute_runs",
    "parse_arms",
    "parse_tuning",
    "pick_arms",
    "plan_runs",
    "plan_trials",
    "summarize_runs",
    "tabulate_comparison",
    "tabulate_equal_tokens",
]
