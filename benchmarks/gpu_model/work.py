"""Policies of published shapes without numbers, and a step's worth of attempts."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from support.pretend_gpu.device import GPU
from transformers import AutoModelForCausalLM

from gpu_model.roofline import Roofline
from scorl.estimate.model import config_of
from scorl.model.chat import Chat
from scorl.model.policy import Policy, with_adapters
from scorl.settings import ModelSettings
from scorl.trajectory import Credit, Problem, Response, TrainingExample, Trajectory, Verdict

__all__ = ["HollowPolicy", "attempts"]

SPREAD = 0.4
"""Standard deviation of the logarithm of a response's length (assumed)."""


class HollowPolicy(Policy):
    """A policy on the pretend GPU whose weights have shapes and types alone."""

    def __init__(self, settings: ModelSettings, roofline: Roofline) -> None:
        self.path, self.lora, self.device = settings.path, settings.lora, GPU
        self.dtype = getattr(torch, settings.dtype)
        self.chat = cast(Chat, SimpleNamespace(end_ids=frozenset()))  # responses end where their tokens do
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


def attempts(
    problems: int, samples: int, shape: tuple[int, int, int], longest: int, vocabulary: int
) -> list[TrainingExample]:
    """Trajectories of two attempts by random tokens; `shape`: prompt, response on average, turn between."""
    draw = np.random.default_rng(0)
    prompt, response, turn = shape

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(draw.integers(10, vocabulary, count).tolist())

    def written() -> tuple[int, ...]:
        length = draw.lognormal(math.log(response) - SPREAD**2 / 2, SPREAD)
        return tokens(int(min(longest, max(response / 20, length))))

    between, found = tokens(turn), []
    for problem in range(problems):
        first = tokens(prompt)
        for sample in range(samples):
            row, responses = first, []
            for _ in range(2):
                ids = written()
                responses.append(Response(row, ids, (0.0,) * len(ids), "", "stop", Verdict(0.0, "")))
                row = (*row, *ids, *between)
            trajectory = Trajectory(Problem(str(problem), ()), sample, tuple(responses))
            found.append(TrainingExample(trajectory, (Credit(1.0, 0.01), Credit(-1.0, 0.01))))
    return found
