"""`scorl judge`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import click

from scorl.cli.output import open_output
from scorl.cli.paths import UserPath

__all__ = ["judge"]


@click.command()
@click.argument("file", type=UserPath(exists=True, dir_okay=False))
@click.option("--verifier", metavar="NAME", required=True, help="One of those above.")
@click.option(
    "--sandbox",
    type=click.Choice(["required", "preferred"]),
    default="required",
    help="Whether programs may be run in less than the full sandbox.  [default: required]",
)
@click.option("--out", type=UserPath(dir_okay=False), help="Write here.  [default: stdout]")
def judge(file: Path, verifier: str, sandbox: Literal["required", "preferred"], out: Path | None) -> None:
    """Judge the responses in FILE, one JSON object a line, in their order.

    math, number and exact read {"id", "response", "answer"}, countdown {"id", "response", "numbers", "target"},
    program {"id", "response", "tests"} with tests as assert statements; each gives {"id", "reward", "verdict",
    "reason"}.
    """
    from scorl.cli.judge_file import judge_lines

    judged = right = 0
    with open_output(out) as handle:
        for line in judge_lines(file, verifier, sandbox):
            handle.write(json.dumps(line) + "\n")  # in ASCII, of which no terminal obeys anything
            judged += 1
            right += line["reward"] >= 0.5
    click.echo(f"{judged} judged, {right} right", err=True)
