"""What people look at: tables, trajectories, and the report of a run."""

from scorl.report.figures import write_figures
from scorl.report.gather import Gathered, gather_report
from scorl.report.html import render_report, save_report, write_report
from scorl.report.panel import tabulate_panel
from scorl.report.scaling import tabulate_scaling
from scorl.report.show import show_trajectories
from scorl.report.table import fold_columns, tabulate_change, tabulate_evaluation, to_markdown, to_rich

__all__ = [
    "Gathered",
    "fold_columns",
    "gather_report",
    "render_report",
    "save_report",
    "show_trajectories",
    "tabulate_change",
    "tabulate_evaluation",
    "tabulate_panel",
    "tabulate_scaling",
    "to_markdown",
    "to_rich",
    "write_figures",
    "write_report",
]
