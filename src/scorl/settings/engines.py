"""Settings of what writes attempts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any
from urllib.parse import SplitResult, urlsplit

from annotated_types import Ge, Gt, Interval, MinLen

from scorl.errors import UserError
from scorl.settings.run import Count

__all__ = [
    "AutoSettings",
    "MaxTokens",
    "OpenAISettings",
    "Sampling",
    "ScriptedSettings",
    "TorchSettings",
    "VllmSettings",
    "api_url",
    "read_key",
]

MaxTokens = Count | Annotated[tuple[Count, ...], MinLen(1)]
"""The most tokens of a response; several: of attempt 1, of attempt 2, ..., the last one of every later attempt too."""


def api_url(text: str, where: str) -> str:
    """The URL of an API; of one without a path `/v1` is meant.

    Raises:
        UserError: it is none, or has a secret in it; `where` says who gave it.
    """
    parts = _split_url(text, f"{where}: this is no address of an API; http://127.0.0.1:8000/v1 would be one")
    if _has_secret(parts):
        raise UserError(f"{where}: no name, password or query belongs there; a key goes into OPENAI_API_KEY")
    return text if parts.path not in ("", "/") else f"{parts.scheme}://{parts.netloc}/v1"


def _split_url(text: str, fault: str) -> SplitResult:
    """The parts of a server's URL; `fault` is raised where it is none."""
    try:
        parts = urlsplit(text)
        is_one = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # half an IPv6 address, or a port that is none
        is_one = False
    if not is_one:
        raise UserError(fault)
    return parts


def _has_secret(parts: SplitResult) -> bool:
    return bool(parts.username or parts.password or parts.query)


def read_key(variable: str) -> str | None:
    """The key in an environment variable, without space around it; None: there is none.

    Raises:
        UserError: no header can carry it, of which the client would say so with the key in its words.
    """
    key = os.environ.get(variable, "").strip()
    if not all("!" <= letter <= "~" for letter in key):
        raise UserError(f"{variable}: this is no key: a space, a line break or an odd letter is in it")
    return key or None


@dataclass(frozen=True)
class AutoSettings:
    """Sample with vLLM on a GPU, where it is installed in this Python, asleep while the learner works; else with
    `torch`. A run writes down which."""

    batch_size: Annotated[int, Ge(1)] = 256
    """The most rows decoded at once."""


@dataclass(frozen=True)
class TorchSettings:
    """Sample from the policy itself, with its own weights."""

    batch_size: Annotated[int, Ge(1)] = 256
    """The most rows decoded at once; results on a CPU do not depend on it."""
    prefix_cache_bytes: Annotated[int, Ge(0)] = 2 << 30
    """The most memory, in bytes, for the keys and values that a turn leaves to the next one; rows for which there is
    no room are computed again. `scorl plan` counts it."""


@dataclass(frozen=True)
class ScriptedSettings:
    """Give canned answers, for trying things out; they are given as certain, and no learner is asked to agree."""

    answers: str
    """A JSONL file of `prompt_contains` and `response`."""


@dataclass(frozen=True)
class VllmSettings:
    """Sample from a vLLM server, which is sent the policy's weights (docs/vllm.md)."""

    batch_size: Annotated[int, Ge(1)] = 256
    """The most rows decoded at once (vLLM's max_num_seqs)."""
    python: str | None = None
    """The Python of the environment that vLLM is installed in, say `.venv-vllm/bin/python`; null: this one's."""
    url: str | None = None
    """A server of your own for all processes, say `http://node7:8000` (docs/vllm.md says how to start one); null: the
    run starts its servers."""
    gpus: tuple[int, ...] | None = None
    """GPUs of this machine that a server for all processes has to itself, `tensor_parallel_size` of them; null: a
    server is on the GPUs of those that learn."""
    merge_adapters: bool = False
    """Send adapters merged into all weights, for models whose adapters vLLM does not take."""
    max_sync_gap: Annotated[float, Gt(0)] | None = None
    """The run stops when, after weights were sent, server and learner differ by more than this on the
    log-probabilities of fixed tokens (95th percentile; half of it on average); null: by dtype (docs/vllm.md)."""
    max_model_len: Annotated[int, Ge(1)] | None = None
    """The longest prompt and response together, in tokens; null: what the model allows."""
    gpu_memory_utilization: Annotated[float, Interval(gt=0, lt=1)] = 0.4
    """Share of the GPU's memory that vLLM takes for its weights, keys and values beside the learner; read on GPUs."""
    tensor_parallel_size: Annotated[int, Ge(1)] = 1
    """GPUs that hold the server's model together; processes that learn on them share the server. Read on GPUs."""
    enable_sleep_mode: bool = False
    """Give the memory to the learner while it learns (vLLM's sleep mode); without effect on a CPU."""
    timeout: Annotated[float, Gt(0)] = 600.0
    """Seconds that the server's start, or any one answer, may take."""

    def __post_init__(self) -> None:
        if self.url is not None and self.gpus is not None:
            raise UserError("engine.gpus: the server at engine.url has its own already; name one of the two")
        if self.url is not None and _has_secret(
            _split_url(self.url, "engine.url: this is no address of a server; http://127.0.0.1:8000 would be one")
        ):
            raise UserError("engine.url: no name, password or query belongs there, and the server asks for none")

    @property
    def is_elsewhere(self) -> bool:
        """Whether the server shares no GPU with a learner, and serves all of them."""
        return self.url is not None or self.gpus is not None


@dataclass(frozen=True)
class OpenAISettings:
    """Ask a model behind an endpoint that speaks OpenAI's protocol, to measure it: there are no weights to train
    (docs/endpoints.md). The key is read from the variable OPENAI_API_KEY."""

    base_url: str | None = None
    """The API, say `http://127.0.0.1:8000/v1`; of a URL without a path `/v1` is meant. null: the variable
    OPENAI_BASE_URL, else OpenAI's own."""
    concurrency: Annotated[int, Ge(1)] = 8
    """Requests under way at once."""
    timeout: Annotated[float, Gt(0)] = 600.0
    """Seconds that an answer may take."""
    max_retries: Annotated[int, Ge(0)] = 10
    """How often a request is sent again that found no server, or one that is busy or failed: after as long as its
    Retry-After says, up to two minutes, else after half a second, which doubles up to 8."""
    max_requests: Annotated[int, Ge(1)] | None = None
    """The most requests of one start; what the journal answers is none, and sending one again is none either."""
    max_total_tokens: Annotated[int, Ge(1)] | None = None
    """The most tokens of one start, prompts and answers together, as the server counts them; requests under way when
    they are used up still end."""
    responses: str | None = None
    """The journal, a JSONL file: each answer is appended to it as it comes, and what stands there is not asked again.
    null: one for each URL and model in the user's cache folder."""
    extra_body: Mapping[str, Any] | None = field(default=None, hash=False)
    """Further fields of each request, say `{chat_template_kwargs: {enable_thinking: false}}`."""

    def __post_init__(self) -> None:
        if self.base_url is not None:
            object.__setattr__(self, "base_url", api_url(self.base_url, "engine.base_url (or OPENAI_BASE_URL)"))


@dataclass(frozen=True)
class Sampling:
    """How responses are drawn while training."""

    temperature: Annotated[float, Ge(0)] = 1.0
    """1.0 in the paper; log-probabilities are taken at the same temperature."""
    max_tokens: MaxTokens = 256
    """Most tokens of one response (open in the paper); several: of each attempt, see `limit`."""

    def __post_init__(self) -> None:
        if isinstance(self.max_tokens, list):
            object.__setattr__(self, "max_tokens", tuple(self.max_tokens))
        if not self._limits or not all(isinstance(limit, int) and limit > 0 for limit in self._limits):
            raise UserError(
                "max_tokens should be a whole number from 1, or one for each attempt as in (64, 256), "
                f"not {self.max_tokens!r:.60}"
            )

    @property
    def _limits(self) -> tuple[int, ...]:
        return self.max_tokens if isinstance(self.max_tokens, tuple) else (self.max_tokens,)

    def limit(self, attempt: int) -> int:
        """The most tokens of an attempt, which count from 1; the last limit is that of every later attempt too.

        >>> [Sampling(max_tokens=(64, 256)).limit(attempt) for attempt in (1, 2, 3)]
        [64, 256, 256]
        """
        return self._limits[min(attempt, len(self._limits)) - 1]

    def describe_limits(self) -> str:
        """The limits in words.

        >>> Sampling(max_tokens=80).describe_limits(), Sampling(max_tokens=(64, 256)).describe_limits()
        ('80', '64, then 256')
        """
        return ", then ".join(map(str, self._limits))
