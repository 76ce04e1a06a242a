"""What a command samples with: a model that is not trained and an engine, written as a recipe writes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict

from scorl.distributed.ranks import ALONE
from scorl.engines import ENGINES, Engine
from scorl.recipe.choice import STRICT
from scorl.recipe.sections import ENGINE
from scorl.settings import ModelSettings

__all__ = ["EngineChoice", "Sampler"]


@dataclass(frozen=True)
class EngineChoice:
    """An engine by name, with its own settings; how it samples is the command's to say."""

    name: str
    settings: Any


@dataclass(frozen=True)
class Sampler:
    """A model and an engine."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    model: ModelSettings
    engine: Annotated[EngineChoice, ENGINE]

    def check(self) -> None:
        """Whether the engine can run here.

        Raises:
            UserError: it cannot.
        """
        ENGINES[self.engine.name].check(self.engine.settings)

    def build(self) -> Engine:
        """The engine; it loads the weights of the model where it needs them in this process.

        Raises:
            UserError: there is no such model, or it cannot be read.
        """
        return ENGINES[self.engine.name].build(self.engine.settings, self.model, None, ALONE)
