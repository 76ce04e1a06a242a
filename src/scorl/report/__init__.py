"""What people look at: tables, trajectories, and the report of a run."""

from scorl.report.html import write_report
from scorl.report.show import show
from scorl.report.table import before_after, before_after_grid, evaluation_grid, to_markdown, to_rich

__all__ = [
    "before_after",
    "before_after_grid",
    "evaluation_grid",
    "show",
    "to_markdown",
    "to_rich",
    "write_report",
]
