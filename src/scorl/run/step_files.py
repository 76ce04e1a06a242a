"""A folder of records with a file for each step: step-000012.jsonl, or step-000012.jsonl.gz."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from scorl.run.files import Record, check_is_file, check_is_folder, read_responses, to_lines, write_whole

__all__ = ["StepFiles"]

NAME = re.compile(r"step-(\d+)\.jsonl(\.gz)?")
"""Of a file; whatever else lies there is somebody else's."""
SHORTEST = 18
"""The bytes of a gzip file's head and end."""


@dataclass(frozen=True)
class StepFiles:
    """The files of a folder, which need not be there; a run that goes on may delete one behind a reader's listing."""

    folder: Path

    def steps(self) -> list[int]:
        """Those that have a file, in order.

        Raises:
            UserError: the folder is none.
        """
        check_is_folder(self.folder)
        found = (NAME.fullmatch(path.name) for path in self.folder.glob("step-*"))
        return sorted({int(match[1]) for match in found if match})

    def path(self, step: int) -> Path:
        """The file of a step, which need not be there."""
        plain, packed = self._paths(step)
        return packed if packed.exists() else plain

    def size(self, step: int) -> int:
        """The bytes of a step's records, as text; none where it is gone, some number where it is no whole gzip file."""
        path = self.path(step)
        with suppress(FileNotFoundError):
            size = path.stat().st_size
            if path.suffix != ".gz" or size < SHORTEST or not path.is_file():
                return size
            with path.open("rb") as file:
                file.seek(-4, os.SEEK_END)  # where gzip keeps it
                return int.from_bytes(file.read(), "little")
        return 0

    def written(self, step: int) -> float | None:
        """When a step's file was written, in seconds since 1970; None where it is gone."""
        with suppress(FileNotFoundError):
            return self.path(step).stat().st_mtime
        return None

    def read(self, step: int) -> Iterator[Record]:
        """The records of a step; none where it is gone."""
        check_is_file(self.path(step))
        with suppress(FileNotFoundError):
            yield from read_responses(self.path(step), whole=True)

    def write(self, step: int, records: Sequence[Record], compress: bool) -> None:
        """Write those of a step, whole."""
        self.folder.mkdir(exist_ok=True)
        write_whole(self._paths(step)[compress], to_lines(records), durable=False)

    def delete(self, steps: Sequence[int]) -> None:
        """Delete those of some steps."""
        for step in steps:
            for path in self._paths(step):
                check_is_file(path)
                path.unlink(missing_ok=True)

    def _paths(self, step: int) -> tuple[Path, Path]:
        """As text, and compressed."""
        name = f"step-{step:06d}.jsonl"
        return self.folder / name, self.folder / f"{name}.gz"
