"""Figures for papers, SVG and PDF, from the data of the report: a column wide, without titles, safe for colour-blind.

matplotlib draws them, which the extra `figures` installs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from scorl.errors import UserError
from scorl.report.curves import KEPT
from scorl.report.gather import Gathered

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["write_figures"]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
"""Okabe and Ito's, which readers with any colour vision tell apart."""
DASHES = ("-", (0, (4, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)))
MARKERS = "osD^vPX"
"""Of the evaluations of attempt 1, 2, ..."""
MOST = len(COLOURS)
"""Runs that one figure can hold: of more, a comparison's say, give those whose curves are wanted."""
WIDTH, HEIGHT = 3.4, 2.3
"""Inches: a column of a paper."""
STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.axisbelow": True,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.4,
    "legend.frameon": False,
    "legend.fontsize": 7,
    "legend.handlelength": 2.2,
    "pdf.fonttype": 42,  # letters stay letters
    "text.parse_math": False,  # names are text, whatever is in them
    "svg.hashsalt": "scorl",  # the same data gives the same file
    "savefig.bbox": "tight",
    "savefig.pad_inches": 0.02,
}
CURVES = {
    "accuracy": ("Accuracy", "accuracy (%)"),
    "flips": ("Flips", "of all problems (%)"),
    "kl": ("KL to the reference", "KL to the reference (nats)"),
}
"""Figures of training, with the evaluations' intervals: by name the panel and the label of its axis."""

Draw = Callable[["Axes"], None]


def write_figures(gathered: Gathered, folder: Path) -> list[Path]:
    """Writes every figure that there is data for, each as SVG and PDF; their paths.

    Raises:
        UserError: matplotlib is not installed, or there is nothing to draw.
    """
    try:
        import matplotlib
    except ImportError:
        raise UserError("figures need matplotlib: pip install 'scorl[figures]'") from None
    written = []
    with matplotlib.rc_context(STYLE):
        for name, size, draw in _list_figures(gathered):
            folder.mkdir(parents=True, exist_ok=True)
            written += _save(_make_figure(size, draw), folder / name)
    if not written:
        raise UserError("there is nothing to draw: no evaluation, no step with attempts, no comparison")
    return written


def _list_figures(gathered: Gathered) -> Iterator[tuple[str, tuple[float, float], Draw]]:
    """(name, inches, what draws it) of all figures that there is data for."""
    runs = [run.charts for run in gathered.runs]
    size = (WIDTH, HEIGHT)
    for name, (title, label) in CURVES.items():
        if len(runs) <= MOST and any(_find_panels(run, title) for run in runs):
            yield name, size, partial(_draw_curves, runs, title, label)
    for run in runs:
        for edits in run["edits"]:
            words = ["edits", edits["split"], *([run["name"]] if len(runs) > 1 else [])]
            yield _slug(" ".join(words)), size, partial(_draw_edits, edits)
    for title, chart in _list_parts("comparison", gathered.comparisons, "charts"):
        height = 0.55 + 0.13 * (1 + len(chart["keys"])) * len(chart["rows"])
        yield _slug(title), (WIDTH, height), partial(_draw_bars, chart)
    for title, panel in _list_parts("scaling", gathered.scalings, "panels"):
        yield _slug(title), size, partial(_draw_scaling, panel)


def _list_parts(kind: str, folders: Sequence[Mapping[str, Any]], parts: str) -> Iterator[tuple[str, Any]]:
    """(words of its name, chart) of the folders' charts; their names stand in it where there are several."""
    for folder in folders:
        for part in folder[parts]:
            yield " ".join([kind, part["title"], *([folder["name"]] if len(folders) > 1 else [])]), part


def _draw_curves(runs: Sequence[Mapping[str, Any]], title: str, label: str, axes: Axes) -> None:
    """Moving means of training, and evaluations with their intervals at their steps; colours tell runs apart."""
    for k, run in enumerate(runs):
        _draw_run(run, title, k if len(runs) > 1 else None, axes)
    axes.set_xlabel("training step")
    axes.set_ylabel(label)
    if "%" in label:
        axes.set_ylim(bottom=0)
    _place_legend(axes)


def _draw_run(run: Mapping[str, Any], title: str, place: int | None, axes: Axes) -> None:
    """The curves of a run: alone, None, they have colours; of several, the run has its own and they have dashes."""
    panels = [
        (kind, [one for one in panel["series"] if one["name"] not in KEPT]) for kind, panel in _find_panels(run, title)
    ]  # shares of the wrong or the right ones are none of all problems
    names = list(dict.fromkeys(one["name"] for _, series in panels for one in series))
    said = set()
    for kind, series in panels:
        for one in series:
            j = names.index(one["name"])
            label = one["name"] if place is None else f"{run['name']}, {one['name']}"
            colour = COLOURS[(j if place is None else place) % MOST]
            if kind == "training":
                dash = DASHES[0 if place is None else j % len(DASHES)]
                axes.plot(one["x"], _smooth(one["y"]), color=colour, linestyle=dash, label=label)
            else:
                _draw_intervals(axes, one, colour, label="" if label in said else label, marker=MARKERS[j % 7])
            said.add(label)


def _draw_intervals(
    axes: Axes, series: Mapping[str, Any], colour: str, line: str = "none", label: str = "", marker: str = "o"
) -> None:
    """Values as dots with their 95% intervals."""
    there = [k for k, y in enumerate(series["y"]) if y is not None and series["low"][k] is not None]
    y, low, high = ([series[name][k] for k in there] for name in ("y", "low", "high"))
    errors = [[a - b for a, b in zip(y, low, strict=True)], [b - a for a, b in zip(y, high, strict=True)]]
    x = [series["x"][k] for k in there]
    axes.errorbar(
        x, y, yerr=errors, fmt=marker, linestyle=line, color=colour, markersize=3, elinewidth=0.8, label=label or None
    )


def _draw_edits(edits: Mapping[str, Any], axes: Axes) -> None:
    """The edit-distance ratios of the first evaluation, outlined, and of the last, filled."""
    for k, one in enumerate(edits["series"]):
        bins = len(one["shares"])
        edges = [b / bins for b in range(bins + 1)]
        last = k == len(edits["series"]) - 1
        style = {"fill": True, "alpha": 0.55} if last else {"linestyle": DASHES[1], "linewidth": 1.2}
        label = f"after {one['step']} updates"
        axes.stairs(one["shares"], edges, color=COLOURS[0] if last else COLOURS[1], label=label, **style)
    axes.set_xlabel("edit-distance ratio of the two attempts")
    axes.set_ylabel("problems (%)")
    axes.set_xlim(0, 1)
    _place_legend(axes)


def _draw_bars(chart: Mapping[str, Any], axes: Axes) -> None:
    """A row for each method, in it a bar for each key, with intervals."""
    rows, keys = chart["rows"], chart["keys"]
    height = 0.8 / len(keys)
    for k, key in enumerate(keys):
        bars = [
            (r + (k - (len(keys) - 1) / 2) * height, *row["bars"][k]) for r, row in enumerate(rows) if row["bars"][k]
        ]
        for y, _, low, high in bars:
            if low is not None:
                axes.plot((low, high), (y, y), color="#333333", linewidth=0.7)
        axes.barh([y for y, *_ in bars], [value for _, value, *_ in bars], height, color=COLOURS[k], label=key)
    axes.set_yticks(range(len(rows)), [row["label"] for row in rows])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.margins(y=0.02)
    axes.set_xlabel(f"{chart['title']} (%)")
    axes.axvline(0, color="#333333", linewidth=0.6)
    if len(keys) > 1:
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)


def _draw_scaling(panel: Mapping[str, Any], axes: Axes) -> None:
    """Accuracies, or their difference, by the number of responses, on a logarithmic axis."""
    for k, one in enumerate(panel["series"]):
        _draw_intervals(axes, one, COLOURS[k % MOST], DASHES[k % 4], one["name"])  # type: ignore[arg-type]
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("responses a problem")
    axes.set_ylabel(f"{panel['title'].lower()} (%)")
    _place_legend(axes)


def _find_panels(run: Mapping[str, Any], title: str) -> list[tuple[str, Mapping[str, Any]]]:
    """("training", panel) and ("held_out", panel of one split) of a title."""
    training = [("training", panel) for panel in run["training"] if panel["title"] == title]
    held_out = [("held_out", panel) for panel in run["held_out"] if panel["title"].startswith(f"{title} on ")]
    return training + held_out[:1]


def _smooth(values: Sequence[float | None]) -> list[float]:
    """The centred moving mean over a twentieth of the steps."""
    half = len(values) // 40
    smooth = []
    for k, value in enumerate(values):
        near = [v for v in values[max(0, k - half) : k + half + 1] if v is not None]
        smooth.append(math.nan if value is None else fmean(near))
    return smooth


def _place_legend(axes: Axes) -> None:
    """Above the axes, where it hides nothing; none for a single curve."""
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) > 1:
        axes.legend(handles, labels, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)


def _make_figure(size: tuple[float, float], draw: Draw) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=size)
    draw(figure.add_subplot())
    return figure


def _save(figure: Figure, stem: Path) -> list[Path]:
    """The figure as SVG and PDF, without dates, so that the same data gives the same file."""
    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in ("svg", "pdf")]
    figure.savefig(paths[0], metadata={"Date": None})
    figure.savefig(paths[1], metadata={"CreationDate": None})
    return paths


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
