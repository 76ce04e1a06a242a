"""Engines: token ids in, sampled token ids with their log-probabilities out.

A new engine is a settings dataclass, a class that keeps the protocol `Engine`, a builder, and a line in `ENGINES`.
"""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scorl.distributed.ranks import Ranks
from scorl.engines.engine import Engine, Request, Sample, Streaming
from scorl.engines.scripted import ScriptedEngine
from scorl.engines.vllm.installed import check_installed
from scorl.errors import UserError
from scorl.model.chat import Chat
from scorl.model.loading import resolve_model
from scorl.settings import AutoSettings, ModelSettings, OpenAISettings, ScriptedSettings, TorchSettings, VllmSettings

if TYPE_CHECKING:
    import torch

    from scorl.model.policy import Policy

__all__ = [
    "ENGINES",
    "Engine",
    "EngineKind",
    "Request",
    "Sample",
    "ScriptedEngine",
    "Streaming",
    "choose_engine",
    "vllm_is_installed",
]


@dataclass(frozen=True)
class EngineKind:
    """An engine as it is chosen by name."""

    settings: type[Any]
    """The dataclass of its settings."""
    build: Callable[[Any, ModelSettings, Policy | None, Ranks], Engine]
    """An engine by its settings that samples from a policy as it stands (None: from the model as it is loaded), on each
    of these ranks."""
    check: Callable[[Any], None] = lambda settings: None
    """Raises `UserError` where an engine of these settings cannot run here, before a model is loaded."""
    is_endpoint: bool = False
    """Whether it asks a model that is elsewhere: neither tokenizer nor weights are here, and nothing can be trained."""


# The builders import what needs torch when they are called: names and settings must not wait for it.


def _torch(settings: TorchSettings, model: ModelSettings, policy: Policy | None, ranks: Ranks) -> Engine:
    from scorl.engines.torch import TorchEngine
    from scorl.model.policy import Policy

    return TorchEngine(policy or Policy.of(model), settings.batch_size, settings.prefix_cache_bytes)


def _vllm(settings: VllmSettings, model: ModelSettings, policy: Policy | None, ranks: Ranks) -> Engine:
    from scorl.engines.vllm.engine import VllmEngine
    from scorl.engines.vllm.launch import ServedModel
    from scorl.engines.vllm.shared import share_engine
    from scorl.model.policy import Policy

    if policy is None and (model.lora or not resolve_model(model.path).are_plain):
        policy = Policy.of(model)  # vLLM calls its own reading of GGUF files highly experimental
    return share_engine(VllmEngine(policy or ServedModel.of(model), settings), ranks)


def _scripted(settings: ScriptedSettings, model: ModelSettings, policy: Policy | None, ranks: Ranks) -> Engine:
    chat = policy.chat if policy else Chat.of_model(model)
    return ScriptedEngine.load_answers(chat, Path(settings.answers))


def _openai(settings: OpenAISettings, model: ModelSettings, policy: Policy | None, ranks: Ranks) -> Engine:
    from scorl.engines.openai.engine import OpenAIEngine

    return OpenAIEngine(model.path, settings)


def _auto(settings: AutoSettings, model: ModelSettings, policy: Policy | None, ranks: Ranks) -> Engine:
    from scorl.model.policy import resolve_device

    name, chosen = choose_engine(settings, resolve_device(model.device), vllm_is_installed())
    return ENGINES[name].build(chosen, model, policy, ranks)


def _check_vllm(settings: VllmSettings) -> None:
    if settings.url is None:  # a server of the user's own is asked for its version when it is first spoken to
        check_installed(settings.python)


def _check_openai(settings: OpenAISettings) -> None:
    if importlib.util.find_spec("openai") is None:
        raise UserError("the engine openai needs OpenAI's client: pip install 'scorl[openai]'")
    if not (settings.base_url or os.environ.get("OPENAI_BASE_URL") or os.environ.get("OPENAI_API_KEY")):
        raise UserError("OpenAI's own API wants a key in OPENAI_API_KEY; another is named as in openai:MODEL@URL")


ENGINES = {
    "auto": EngineKind(AutoSettings, _auto),
    "torch": EngineKind(TorchSettings, _torch),
    "vllm": EngineKind(VllmSettings, _vllm, _check_vllm),
    "openai": EngineKind(OpenAISettings, _openai, _check_openai, is_endpoint=True),
    "scripted": EngineKind(ScriptedSettings, _scripted),
}
"""The engines by the names that recipes and commands use."""


def choose_engine(wanted: AutoSettings, device: torch.device, vllm: bool) -> tuple[str, TorchSettings | VllmSettings]:
    """What the engine `auto` is on a device, and with vLLM or without it: its name and its settings."""
    if device.type == "cuda" and vllm:
        return "vllm", VllmSettings(batch_size=wanted.batch_size, enable_sleep_mode=True)
    if device.type == "cuda":
        warnings.warn(
            "engine.name: vLLM is not installed here, so torch writes the attempts, which takes several times as long "
            "on a GPU: pip install 'scorl[vllm]' (docs/vllm.md), or engine.name=torch, and nothing is said",
            stacklevel=2,
        )
    return "torch", TorchSettings(batch_size=wanted.batch_size)


def vllm_is_installed() -> bool:
    """Whether this Python has vLLM; it is not imported, which takes long."""
    return importlib.util.find_spec("vllm") is not None
