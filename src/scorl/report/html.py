"""The report: one self-contained HTML file, readable without a network, in light and in dark.

What stands in it is gathered in `gather.py`, how it looks and works is in `page/`. Data is JSON, gzip and base64 in
elements that no browser runs or shows: nothing that a model wrote is markup, and a Content-Security-Policy lets the
page run its own scripts, by their hashes, and load nothing.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from scorl.report.gather import Gathered, gather_report
from scorl.run.directory import RunDirectory
from scorl.version import __version__

__all__ = ["render_report", "save_report", "write_report"]

SCRIPTS = (
    "dom.js",
    "data.js",
    "search.js",
    "diff.js",
    "list.js",
    "detail.js",
    "filters.js",
    "browser.js",
    "chart.js",
    "curves.js",
    "bars.js",
    "main.js",
)
"""The page's own scripts in their order; together they are one module."""
LIBRARY, LIBRARY_STYLE = "vendor/uPlot.iife.min.js", "vendor/uPlot.min.css"
"""uPlot 1.6.32 (MIT, licence beside it): curves with a cursor, zoom and logarithmic axes."""


@dataclass(frozen=True)
class Asset:
    """Text of a script or style that stands in the page."""

    text: str

    @property
    def source(self) -> str:
        """How the policy names it."""
        digest = hashlib.sha256(self.text.encode()).digest()
        return f"'sha256-{base64.b64encode(digest).decode()}'"


def write_report(path: Path | str) -> Path:
    """Writes the report of a run directory into it and returns its path; what is not there yet is left out.

    Raises:
        UserError: the directory holds no steps and no evaluations.
    """
    paths = [Path(path)]
    return save_report(gather_report(paths), paths)


def save_report(gathered: Gathered, paths: Sequence[Path]) -> Path:
    """Writes the report of runs, or of folders of comparisons and scaling results, and returns its path.

    Args:
        gathered: its data.
        paths: what it is of: of one folder it becomes report.html there, of several in this one.
    """
    return RunDirectory(paths[0] if len(paths) == 1 else Path()).write_report(render_report(gathered))


def render_report(gathered: Gathered) -> str:
    """The page."""
    scripts = [Asset(_read(LIBRARY)), Asset("\n".join(map(_read, SCRIPTS)))]
    styles = [Asset(_read(LIBRARY_STYLE)), Asset(_read("report.css"))]
    charts = {
        "runs": [run.charts for run in gathered.runs],
        "comparisons": gathered.comparisons,
        "scalings": gathered.scalings,
    }
    return _load_template().render(
        gathered=gathered,
        policy=_state_policy(scripts, styles),
        scripts=scripts,
        styles=styles,
        charts=_pack(charts),
        attempts=[_pack(run.attempts) for run in gathered.runs],
        version=__version__,
    )


def _state_policy(scripts: Sequence[Asset], styles: Sequence[Asset]) -> str:
    sources = (
        f"{kind}-src {' '.join(one.source for one in of)}" for kind, of in (("script", scripts), ("style", styles))
    )
    return "; ".join(["default-src 'none'", *sources, "base-uri 'none'", "form-action 'none'"])


def _pack(data: Any) -> str:
    """JSON in ASCII, with lone surrogates as escapes, compressed, in an alphabet without markup."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode(), compresslevel=6, mtime=0)).decode()


def _read(name: str) -> str:
    return files("scorl.report").joinpath("page", name).read_text(encoding="utf-8")


def _load_template() -> Template:
    return Environment(
        loader=PackageLoader("scorl.report", "page"),
        autoescape=True,  # whatever the template's name; scripts and styles are marked as our own there
        undefined=StrictUndefined,  # a name that is misspelt is an error, not an empty place
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template("report.html.j2")
