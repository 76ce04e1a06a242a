"""`scorl judge`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import click

from scorl.cli.output import written

__all__ = ["judge"]


@click.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--verifier", type=click.Choice(["math", "countdown"]), required=True)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write here.  [default: stdout]")
def judge(file: Path, verifier: Literal["math", "countdown"], out: Path | None) -> None:
    """Judge the responses in FILE, one JSON object a line, in their order.

    math reads {"id", "response", "answer"}, countdown {"id", "response", "numbers", "target"};
    each gives {"id", "reward", "verdict", "reason"}.
    """
    from scorl.judge_file import judge_lines

    judged = right = 0
    with written(out) as handle:
        for line in judge_lines(file, verifier):
            handle.write(json.dumps(line, ensure_ascii=False) + "\n")
            judged += 1
            right += line["reward"] >= 0.5
    click.echo(f"{judged} judged, {right} right", err=True)
