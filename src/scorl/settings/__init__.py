"""The settings that recipes write down, with what the paper leaves open decided and documented."""

from scorl.settings.engines import (
    AutoSettings,
    MaxTokens,
    OpenAISettings,
    Sampling,
    ScriptedSettings,
    TorchSettings,
    VllmSettings,
)
from scorl.settings.learner import IMPORTANCE_CAP, KL_IN, LearnerSettings, Packing
from scorl.settings.model import Dtype, LoraSettings, ModelSettings
from scorl.settings.run import MOST, CheckpointSettings, Count, EvaluationSettings, Gpu, LoggerName, LoggingSettings

__all__ = [
    "IMPORTANCE_CAP",
    "KL_IN",
    "MOST",
    "AutoSettings",
    "CheckpointSettings",
    "Count",
    "Dtype",
    "EvaluationSettings",
    "Gpu",
    "LearnerSettings",
    "LoggerName",
    "LoggingSettings",
    "LoraSettings",
    "MaxTokens",
    "ModelSettings",
    "OpenAISettings",
    "Packing",
    "Sampling",
    "ScriptedSettings",
    "TorchSettings",
    "VllmSettings",
]
