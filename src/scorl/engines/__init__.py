"""Engines: token ids in, sampled token ids with their log-probabilities out."""

from scorl.engines.engine import Engine, Request, Sample
from scorl.engines.scripted import ScriptedEngine
from scorl.engines.torch import TorchEngine
from scorl.engines.vllm import VllmEngine

__all__ = ["Engine", "Request", "Sample", "ScriptedEngine", "TorchEngine", "VllmEngine"]
