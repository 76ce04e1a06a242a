"""Writes the tables of docs/speed.md from the recorded results: python benchmarks/table.py"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

__all__ = ["PAGE", "page", "recorded"]

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "speed.md"


def recorded() -> dict[str, Any]:
    """What results.json, results_gpu.json (`gpu`) and results_gpu_measured.json (`measured`) hold."""
    files = {"gpu": "results_gpu.json", "measured": "results_gpu_measured.json"}
    here: dict[str, Any] = json.loads((HERE / "results.json").read_text())
    return here | {name: json.loads((HERE / file).read_text()) for name, file in files.items()}


def page(text: str, results: dict[str, Any]) -> str:
    """The page with its tables as the results have them."""
    for name, rows in (
        ("comparisons", _comparisons(results["comparisons"])),
        ("phases", _phases(results["phases"])),
        ("growth", _growth(results["growth"])),
        ("measured learner", _measured(results["measured"], "learner, 1.5B", LEARNER)),
        ("measured decoding", _measured(results["measured"], "decoding, 1.5B", DECODING)),
        ("modelled learner", _modelled(results["gpu"], "learner, 1.5B")),
        ("modelled decoding", _modelled(results["gpu"], "decoding, ")),
        ("modelled recipes", _modelled(results["gpu"], "recipe ", both=False)),
    ):
        before, _, rest = text.partition(f"<!-- {name} -->\n")
        _, _, after = rest.partition(f"<!-- end of {name} -->\n")
        text = f"{before}<!-- {name} -->\n\n{_table(rows)}\n<!-- end of {name} -->\n{after}"
    return text


def _table(rows: Iterable[list[str]]) -> str:
    head, *body = rows
    lines = [head, ["--"] * len(head), *body]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _comparisons(found: dict[str, dict[str, Any]]) -> Iterator[list[str]]:
    yield ["what", "peer", "ours, tokens/s", "peer, tokens/s", "ratio"]
    for name, f in found.items():
        what, peer = name.split(" / ")
        yield [what, peer, f"{f['ours']:,.0f}", f"{f['peer']:,.0f}", f"{f['ratio']:.2f}"]


def _phases(found: dict[str, dict[str, Any]]) -> Iterator[list[str]]:
    yield ["phase", "share of the floor", "GFLOP/s of our products", "of torch's float32", "share of a floor at that"]
    for name, f in sorted(found.items()):
        share, rate, torchs = f["floor_share"], f["gflop_per_second"], f["torch_gflop_per_second"]
        yield [name, f"{share:.0%}", f"{rate:.0f}", f"{torchs:.0f}", f"{share * rate / torchs:.0%}"]


def _growth(found: dict[str, dict[str, Any]]) -> Iterator[list[str]]:
    yield ["what grows", "to", "seconds", "peak, MiB"]
    for name, sweep in found.items():
        points = sweep.get("points", [])
        seconds = ", ".join(f"{p['seconds']:.2f}" for p in points)
        values = ", ".join(str(p[name]) for p in points)
        if points:
            yield [name, values, seconds, ", ".join(f"{p['peak_mib']:.0f}" for p in points)]


LEARNER = {"seconds a step": ".1f", "peak, GiB": ".1f"}
DECODING = {"tokens/s": ",.0f", "ms a token of all rows": ".1f", "peak, GiB": ".1f"}


def _measured(found: dict[str, dict[str, float]], kind: str, columns: dict[str, str]) -> Iterator[list[str]]:
    yield ["", *columns]
    for name, f in found.items():
        if name.startswith(kind):
            yield [name.removeprefix(kind).strip(", ") or "plain", *(format(f[c], how) for c, how in columns.items())]


def _modelled(found: dict[str, dict[str, dict[str, float]]], kind: str, both: bool = True) -> Iterator[list[str]]:
    """A row of figures from before the work on GPUs began, and one of now."""
    cases = [name for name in found["now"] if name.startswith(kind)]
    columns = list(found["now"][cases[0]])
    yield ["", *columns]
    for name in cases:
        for when in ("before", "now") if both else ("now",):
            figures = found[when].get(name, {})
            label = [name.removeprefix(kind).strip(", ") or "plain", *([when] if both else [])]
            yield [", ".join(label), *(_digits(figures[c]) if c in figures else "" for c in columns)]


def _digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


def main() -> None:
    PAGE.write_text(page(PAGE.read_text(), recorded()))


if __name__ == "__main__":
    main()
