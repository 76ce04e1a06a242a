"""`scorl export-eval`."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scorl.cli.output import check_writable, open_output
from scorl.cli.paths import UserPath
from scorl.errors import UserError

if TYPE_CHECKING:
    from scorl.evaluation import Summary

__all__ = ["export_eval"]


@click.command("export-eval")
@click.argument("source", metavar="EVALUATION_OR_RUN", type=UserPath(exists=True))
@click.option("--dataset", metavar="OWNER/NAME", help="The problems' data set on the hub.  [default: that of the task]")
@click.option("--date", type=click.DateTime(["%Y-%m-%d"]), help="Of the evaluation.  [default: that of the file]")
@click.option("--wording", metavar="NAME", help="Which one of an evaluation in several wordings.")
@click.option("--source-url", metavar="URL", help="Where the evaluation can be looked up.")
@click.option("--out", type=UserPath(dir_okay=False), help="The file.  [default: stdout]")
def export_eval(
    source: Path,
    dataset: str | None,
    date: datetime | None,
    wording: str | None,
    source_url: str | None,
    out: Path | None,
) -> None:
    """Write an evaluation in the hub's form, for .eval_results/TASK.yaml in a model's repository.

    Three results: accuracy_t1, accuracy_t2 and delta, in percent, with the setup and the wording in their notes.
    """
    from scorl.hub.eval_results import dataset_of, day_of, to_entries, to_yaml

    check_writable(out)
    summary, file = _read(source, wording)
    dataset = dataset or dataset_of(summary)
    if dataset is None:
        raise UserError(
            f"{source}: no data set on the hub is known for the task {summary['task']}: --dataset OWNER/NAME"
        )
    day = date.date().isoformat() if date else day_of(file)
    with open_output(out) as handle:
        handle.write(to_yaml(to_entries(summary, dataset, date=day, source_url=source_url)))


def _read(source: Path, wording: str | None) -> tuple[Summary, Path]:
    """The evaluation in a file, or the latest one of a run, and the file that it is in."""
    from scorl.hub.card import latest_evaluation
    from scorl.run.directory import EVALUATIONS, RunDirectory

    if source.is_dir():
        run = RunDirectory(source)
        summary = latest_evaluation(run) if run.has_recipe else None
        if summary is None:
            raise UserError(f"{source}: no run directory, or none with an evaluation")
        file = run.path / EVALUATIONS
    else:
        summary, file = _read_file(source), source
        if "wordings" in summary:
            return _choose(summary["wordings"], wording, source), source
        _check(summary, source)
    if wording not in (None, summary.get("wording")):
        raise UserError(f"{source}: holds an evaluation in one wording: leave out --wording {wording}")
    return summary, file


def _read_file(source: Path) -> dict[str, Any]:
    """The object in a file."""
    try:
        summary = json.loads(source.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _refusal(source, error) from None
    if isinstance(summary, list):
        raise UserError(f"{source}: holds evaluations of {len(summary)} models; write one of them into a file")
    if not isinstance(summary, dict):
        raise _refusal(source, "no object")
    return summary


def _choose(wordings: Any, wording: str | None, source: Path) -> Summary:
    """Of a panel the evaluation in one wording."""
    if not isinstance(wordings, dict):
        raise _refusal(source, "`wordings` is no object")
    if wording not in wordings:
        raise UserError(f"{source}: holds an evaluation in several wordings: --wording {' or '.join(wordings)}")
    _check(wordings[wording], source)
    chosen: Summary = wordings[wording]
    return chosen


def _check(summary: Any, source: Path) -> None:
    """Whether all is there that is exported."""
    from scorl.run.history import has_metrics

    needed = {"task", "split", "problems", "samples", "temperature", "max_tokens"}
    lacking = needed - summary.keys() if isinstance(summary, dict) else needed
    if lacking or not has_metrics(summary):
        raise _refusal(source, f"no {', '.join(sorted(lacking) or ['metrics'])}")


def _refusal(source: Path, why: object) -> UserError:
    return UserError(f"{source}: is no evaluation as `scorl evaluate --out` writes it: {why}")
