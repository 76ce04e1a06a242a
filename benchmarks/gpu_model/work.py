"""Policies of published shapes without numbers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import torch
from support.pretend_gpu.device import GPU
from transformers import AutoModelForCausalLM

from gpu_model.roofline import Roofline
from scorl.estimate.model import config_of
from scorl.model.chat import Chat
from scorl.model.policy import Policy, with_adapters
from scorl.settings import ModelSettings

__all__ = ["HollowPolicy"]


class HollowPolicy(Policy):
    """A policy on the pretend GPU whose weights have shapes and types alone."""

    def __init__(self, settings: ModelSettings, roofline: Roofline) -> None:
        self.path, self.lora, self.device = settings.path, settings.lora, GPU
        self.dtype = getattr(torch, settings.dtype)
        self.chat = cast(Chat, SimpleNamespace(ends=lambda ids: False))  # responses end where their tokens do
        with torch.device("meta"):
            config = config_of(settings.path)
            model = AutoModelForCausalLM.from_config(config, dtype=self.dtype if self.lora else torch.float32)
            self.model = (with_adapters(model, self.lora) if self.lora else model).eval()
        with roofline.label("weights"):
            _place(self.model)


def _place(model: Any) -> None:
    """Put a model of `meta` tensors onto the pretend GPU; tied weights stay tied."""
    placed: dict[int, torch.nn.Parameter] = {}
    for module in model.modules():
        for name, p in module._parameters.items():
            if p is not None and id(p) not in placed:
                made = torch.empty(p.shape, dtype=p.dtype, device=GPU)
                placed[id(p)] = torch.nn.Parameter(made, requires_grad=p.requires_grad)
                placed[id(placed[id(p)])] = placed[id(p)]
            if p is not None:
                module._parameters[name] = placed[id(p)]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device=GPU)
