"""Writes the tables of docs/speed.md from results.json: python benchmarks/table.py"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

__all__ = ["PAGE", "RESULTS", "page"]

RESULTS = Path(__file__).with_name("results.json")
PAGE = Path(__file__).parent.parent / "docs" / "speed.md"


def page(text: str, results: dict[str, Any]) -> str:
    """The page with its tables as the results have them."""
    for name, rows in (
        ("comparisons", _comparisons(results["comparisons"])),
        ("phases", _phases(results["phases"])),
        ("growth", _growth(results["growth"])),
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


def main() -> None:
    PAGE.write_text(page(PAGE.read_text(), json.loads(RESULTS.read_text())))


if __name__ == "__main__":
    main()
