"""`scorl push`."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import click

from scorl.cli.output import say
from scorl.cli.paths import UserPath
from scorl.errors import UserError

__all__ = ["push"]


@click.command()
@click.argument("source", metavar="RUN_OR_CHECKPOINT")
@click.argument("repo_id", metavar="OWNER/NAME")
@click.option(
    "--dry-run",
    "folder",
    type=UserPath(file_okay=False),
    metavar="DIR",
    help="Write what would be uploaded into this folder, and upload nothing.",
)
@click.option(
    "--dtype",
    type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    default="auto",
    show_default=True,
    help="Of the weights. auto: the type that the run computed in.",
)
@click.option("--adapter", is_flag=True, help="The adapters of a LoRA run by themselves, in place of merged weights.")
@click.option(
    "--dataset",
    metavar="OWNER/NAME",
    help="The problems' data set on the hub, for the results.  [default: that of the task]",
)
@click.option("--private", is_flag=True, help="Make a repository that others cannot see.")
@click.option("--revision", metavar="BRANCH", help="Upload to this branch, which is made where it is not there.")
def push(
    source: str,
    repo_id: str,
    folder: Path | None,
    dtype: Literal["auto", "float32", "bfloat16", "float16"],
    adapter: bool,
    dataset: str | None,
    private: bool,
    revision: str | None,
) -> None:
    """Upload a checkpoint (of a run: the newest) to the Hugging Face hub: model, tokenizer, card and results.

    The trainer's state stays here.
    """
    from scorl.hub.folder import collect_files, find_checkpoint, measure, write_files
    from scorl.hub.push import check_repo_id, upload

    if adapter and dtype != "auto":
        raise UserError(
            "--dtype is of merged weights, and adapters stay in the type that learned: leave one of them out"
        )
    for name in (repo_id, dataset):
        if name is not None:
            check_repo_id(name)
    checkpoint = find_checkpoint(source)
    with TemporaryDirectory() as scratch:
        files = collect_files(checkpoint, repo_id, Path(scratch), dtype=dtype, adapter=adapter, dataset=dataset)
        for name, content in files.items():
            say(f"{measure(content):>15,}  {name}", err=False)
        say(f"{sum(map(measure, files.values())):>15,}  bytes in all, of {checkpoint.folder.name}", err=False)
        if folder:
            write_files(files, folder)
            say(f"written to {folder}; nothing was uploaded", err=False)
        else:
            say(f"uploaded: {upload(files, repo_id, private=private, revision=revision)}", err=False)
