"""Paths on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from scorl.text_files import as_path

__all__ = ["UserPath"]


class UserPath(click.Path):
    """click's, as a `Path` with `~` as the home folder: no shell expands `--out=~/runs/a`."""

    def __init__(self, **kinds: bool) -> None:
        super().__init__(path_type=Path, **kinds)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path."""
        return super().convert(as_path(value) if str(value).startswith("~") else value, param, ctx)
