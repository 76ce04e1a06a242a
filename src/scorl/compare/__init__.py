"""The paper's comparison: every method from one recipe, over seeds, in one table.

arms = chosen("score,multi_turn")                   # what is compared
runs = planned_runs(recipe, arms, seeds=5, out)     # ordinary run directories
carry_out(runs, out, jobs=2, tell=print)            # resumable, and reused when they are there
comparison = compared(runs)                         # means over seeds, intervals, paired differences
"""

from scorl.compare.arms import Arm, chosen
from scorl.compare.figure import draw
from scorl.compare.jobs import Run, carry_out, planned_runs
from scorl.compare.methods import METHODS
from scorl.compare.results import Comparison, compared
from scorl.compare.table import comparison_grid

__all__ = [
    "METHODS",
    "Arm",
    "Comparison",
    "Run",
    "carry_out",
    "chosen",
    "compared",
    "comparison_grid",
    "draw",
    "planned_runs",
]
