"""The model provider `scorl` of inspect-ai: models that our engines sample from.

    inspect eval scorl/self_correction --model scorl/scorl:countdown-base
    inspect eval scorl/self_correction --model scorl/runs/demo -M engine.batch_size=64 -M model.dtype=bfloat16

A message of the model keeps its token ids as metadata, so that a later turn continues from the tokens that were
written, as everywhere in scorl; a conversation without them is continued from its text.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby
from typing import Any, NamedTuple

from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    GenerateConfig,
    ModelAPI,
    ModelOutput,
    ModelUsage,
)

from scorl.cli.output import quiet
from scorl.cli.sampling import resolve_sampler
from scorl.engines.engine import Engine, Request, Sample
from scorl.errors import UserError
from scorl.harness.batching import SharedCalls, report
from scorl.seeds import derive
from scorl.trajectory import Message

__all__ = ["ScorlModel"]

MAX_TOKENS = 256
"""Of a response where nothing else is said, as for `scorl evaluate`."""
IDS = "token_ids"
"""Where a message's metadata has the ids that the engine drew."""
UNKNOWN = {
    "top_p": 1.0,
    "top_k": None,
    "stop_seqs": None,
    "frequency_penalty": 0.0,
    "presence_penalty": 0.0,
    "num_choices": 1,
    "best_of": 1,
    "logprobs": False,
    "logit_bias": None,
    "response_schema": None,
}
"""What may be asked of other providers and would be ignored here, with the value that asks for nothing."""


class _Job(NamedTuple):
    request: Request
    sampling: tuple[float, int]
    """Temperature and the longest response."""


class ScorlModel(ModelAPI):
    """A model by one of our engines; concurrent calls are sampled together.

    Args:
        model_name: as `scorl evaluate` takes it: a folder, scorl:NAME, pypi:PACKAGE, a run directory, ...
        base_url: unused.
        api_key: unused.
        config: what calls will ask for.
        engine: which of them.
        settings: of the engine and the model, `engine.KEY` and `model.KEY`.
    """

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig | None = None,
        engine: str = "auto",
        **settings: Any,
    ) -> None:
        config = config or GenerateConfig()
        super().__init__(model_name, base_url, api_key, [], config)
        try:
            check((), config)
            self.engine, self._sample = load(
                model_name, engine, tuple(f"{key}={json.dumps(value)}" for key, value in settings.items())
            )
        except UserError as error:
            raise report(error) from None
        self._asked: Counter[tuple[int, ...]] = Counter()
        """How often each prompt was asked: every time is another draw."""

    def max_tokens(self) -> int | None:
        """Of a response where nothing else is said."""
        return MAX_TOKENS

    def max_connections(self) -> int:
        """As many calls at a time as the engine samples together."""
        return self.engine.batch_size

    async def generate(
        self, input: list[ChatMessage], tools: list[Any], tool_choice: Any, config: GenerateConfig
    ) -> ModelOutput:
        """One response; greedy where no temperature is given.

        Raises:
            PrerequisiteError: it is asked for something that the engines do not do.
        """
        try:
            check(tools, config)
            prompt = make_prompt(self.engine, input)
        except UserError as error:
            raise report(error) from None
        seed = derive(config.seed or 0, "inspect", str(prompt), self._asked[prompt])
        self._asked[prompt] += 1
        sampling = (config.temperature or 0.0, config.max_tokens or MAX_TOKENS)
        sample = await self._sample(_Job(Request(prompt, seed), sampling))
        return self._output(prompt, sample)

    def _output(self, prompt: tuple[int, ...], sample: Sample) -> ModelOutput:
        message = ChatMessageAssistant(
            content=self.engine.chat.text(sample.ids),
            model=self.model_name,
            source="generate",
            metadata={IDS: list(sample.ids)},
        )
        written = len(sample.ids) if sample.tokens is None else max(sample.tokens, 0)
        return ModelOutput(
            model=self.model_name,
            choices=[ChatCompletionChoice(message=message, stop_reason=STOP_REASONS[sample.finish])],
            usage=ModelUsage(input_tokens=len(prompt), output_tokens=written, total_tokens=len(prompt) + written),
        )


STOP_REASONS = {"stop": "stop", "length": "max_tokens"}


@lru_cache(maxsize=1)
def load(model: str, engine: str, settings: tuple[str, ...]) -> tuple[Engine, SharedCalls[_Job, Sample]]:
    """An engine and what samples from it; inspect asks for the same model more than once.

    Raises:
        UserError: there is no such model or setting, or the engine cannot run here.
    """
    sampler = resolve_sampler(model, engine, settings)
    sampler.check()
    quiet()
    loaded = sampler.build()
    return loaded, SharedCalls(lambda jobs: sample_all(loaded, jobs))


def check(tools: Sequence[object], config: GenerateConfig) -> None:
    """Whether the engines can do what a call asks for.

    Raises:
        UserError: they cannot.
    """
    asked = [name for name, plain in UNKNOWN.items() if (getattr(config, name, None) or plain) != plain]
    asked += ["tools"] * bool(tools)
    if asked:
        raise UserError(f"scorl's engines know temperature, max_tokens and seed; not {', '.join(asked)}")


def make_prompt(engine: Engine, messages: Sequence[ChatMessage]) -> tuple[int, ...]:
    """The ids of a conversation that ends with a user's message.

    What stands before the first answer that an engine wrote is rendered by the chat template; the rest is appended.

    Raises:
        UserError: the template refuses the messages.
    """
    chat = [Message(role=m.role, content=m.text) for m in messages]
    answers = [i for i, m in enumerate(messages) if (m.metadata or {}).get(IDS)]
    start = answers[0] if answers else len(messages)
    behind = [m["role"] for m in chat[start:]]
    if behind != ["assistant", "user"] * (len(behind) // 2):
        return engine.chat.prompt(chat)  # no turns that alternate
    prompt = engine.chat.prompt(chat[:start])
    for place in range(start, len(messages), 2):
        ids = (messages[place].metadata or {}).get(IDS) or engine.chat.reply(chat[place]["content"])
        turn = sum(m["role"] == "user" for m in chat[: place + 1])
        prompt = engine.chat.follow(prompt, tuple(ids), chat[place + 1]["content"], turn)
    return prompt


def sample_all(engine: Engine, jobs: Sequence[_Job]) -> list[Sample]:
    """The samples of many calls in their order, those of the same temperature and limit together."""
    samples: dict[int, Sample] = {}
    order = sorted(range(len(jobs)), key=lambda i: jobs[i].sampling)
    for (temperature, max_tokens), same in groupby(order, key=lambda i: jobs[i].sampling):
        places = list(same)
        drawn = engine.sample([jobs[i].request for i in places], temperature=temperature, max_tokens=max_tokens)
        samples |= dict(zip(places, drawn, strict=True))
    return [samples[i] for i in range(len(jobs))]
