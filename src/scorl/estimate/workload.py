"""What a step has to sample and to learn: the real rollout, answered by random tokens of given lengths."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil
from statistics import mean
from typing import ClassVar, cast

import numpy as np
from transformers import AutoTokenizer

from scorl.engines.engine import Arithmetic, Request, Sample
from scorl.errors import UserError
from scorl.learner.batch import training_row
from scorl.model.chat import Chat
from scorl.model.context import check_context
from scorl.model.loading import load_pretrained
from scorl.recipe import Recipe
from scorl.rollout import Draws, OfflineAttempts, demonstrate, rollout
from scorl.seeds import derive
from scorl.settings import MaxTokens, Sampling
from scorl.tasks.task import Task
from scorl.training.stage import Stage
from scorl.trajectory import Message, Problem, TrainingExample, Verdict, user

__all__ = ["Lengths", "Sampled", "Workload", "lengths_of", "workload"]

SPREAD = 0.4
"""Standard deviation of the logarithm of a response's length (assumed)."""
PROMPT, TURN = 150, 60
"""Tokens of a prompt and of what asks for another attempt, where task or tokenizer are out of reach (assumed)."""
RENDERED = 32
"""Problems that are rendered to see how long prompts are."""


@dataclass(frozen=True)
class Lengths:
    """How long texts are, in tokens."""

    prompt: int
    turn: int
    """Of what asks for another response."""
    response: int
    """Of responses, on average; where a limit is smaller, that."""
    limit: MaxTokens
    """Of the longest possible response, or by attempt."""
    assumed: bool = False
    """Whether prompts could not be rendered, so that their length is assumed."""


@dataclass(frozen=True)
class Sampled:
    """One call of the engine: the rows that are decoded together, in tokens."""

    rows: int
    prompts: int
    """Distinct ones."""
    prompt: int
    """Mean length of the whole prompt."""
    fresh: int
    """Of it, what the call before has not computed."""
    response: float
    """Mean length."""
    longest: int


@dataclass(frozen=True)
class Workload:
    """A step of a stage on one device."""

    calls: tuple[Sampled, ...]
    examples: tuple[TrainingExample, ...]
    scale: float
    """How often so much stands in the step: some problems stand for all."""

    @property
    def longest(self) -> int:
        """Tokens of the longest trajectory, but for the last response's spread."""
        return max((call.prompt + call.longest for call in self.calls), default=1)

    @property
    def key(self) -> tuple[object, ...]:
        """What two workloads share that cost the same."""
        rows = ((len(training_row(e)), tuple(credit.beta > 0 for credit in e.credits)) for e in self.examples)
        return self.calls, tuple(rows), self.scale


def lengths_of(
    recipe: Recipe, prompt: int | None = None, response: int | None = None, positions: int | None = None
) -> Lengths:
    """Lengths as they are given; else of the task's first prompts, and the longest responses that are allowed.

    Raises:
        UserError: the chat template is at fault, or no problem fits into the model's positions.
    """
    limit = recipe.engine.max_tokens
    largest = limit if isinstance(limit, int) else max(limit)
    response = min(response or largest, largest)
    try:
        task = recipe.build_task()
        tokenizer = load_pretrained(AutoTokenizer, recipe.model.path)
        problems = task.split(recipe.task.split).draw(RENDERED, 0, recipe.seed)
    except UserError:
        return Lengths(prompt or PROMPT, TURN, response, limit, assumed=prompt is None)
    chat = Chat.of_model(recipe.model, tokenizer)
    if warning := check_context(chat, problems, task.turns(recipe.attempts), recipe.engine.sampling, positions):
        warnings.warn(warning, stacklevel=2)
    rendered = mean(len(chat.prompt(problem.prompt)) for problem in problems)
    between = [len(chat.follow((), (), turn.ask(problems[0]), i)) for i, turn in enumerate(task.turns(2), 1)]
    return Lengths(prompt or ceil(rendered), ceil(mean(between)), response, limit)


def workload(recipe: Recipe, stage: Stage, lengths: Lengths, words: int) -> Workload:
    """A step of a stage on one of the recipe's devices, in a vocabulary of so many words.

    Rewards are random, and higher in later turns, so that no objective finds nothing to learn from.
    """
    engine = _Answers(lengths, words)
    task = Task("", {}, "", _judge, between=recipe.turns)
    share = ceil(stage.problems / (recipe.launcher.workers or 1))
    few = min(share, _enough(recipe, stage, lengths))
    problems = [Problem(str(i), (user(str(i)),), solution="0") for i in range(few)]
    draws = Draws(
        seed=lambda problem, sample, place: derive(problem.id, sample, place),
        samples=stage.samples,
        sampling=Sampling(max_tokens=lengths.limit),
        branches=stage.branches,
        first=stage.first,
        offline=OfflineAttempts(engine, stage.offline) if stage.offline else None,
    )
    if stage.objective.source == "solutions":
        groups = demonstrate(engine.chat, task, problems)
    else:
        groups = rollout(engine, task, problems, task.turns(stage.attempts), draws)
    examples = [example for group in groups for example in stage.objective(group)]
    return Workload(tuple(engine.calls), tuple(examples) * stage.objective.epochs, share / few)


def _enough(recipe: Recipe, stage: Stage, lengths: Lengths) -> int:
    """Problems that fill some micro-batches; the others are taken to be like them."""
    limits = map(Sampling(max_tokens=lengths.limit).limit, range(1, stage.attempts + 1))
    trajectory = sum(lengths.turn + min(lengths.response, limit) for limit in limits)
    each = lengths.prompt + stage.samples * stage.branches * trajectory
    return max(2, 4 * recipe.learner.tokens_per_microbatch // each)


def _judge(pairs: Sequence[tuple[Problem, str]]) -> list[Verdict]:
    return [Verdict(float(text.split()[0]), "") for _, text in pairs]


@dataclass(frozen=True)
class _Texts:
    """In a chat's place: random tokens for prompts and messages; a response's text is its reward and a claim."""

    lengths: Lengths
    words: int

    def prompt(self, messages: Sequence[Message]) -> tuple[int, ...]:
        return _tokens(derive(*(message["content"] for message in messages)), self.lengths.prompt, self.words)

    def follow(self, prompt: tuple[int, ...], ids: tuple[int, ...], message: str, turn: int = 1) -> tuple[int, ...]:
        return (*prompt, *ids, *(turn,) * self.lengths.turn)

    def reply(self, text: str) -> tuple[int, ...]:
        return (0,) * self.lengths.response

    def text(self, ids: tuple[int, ...]) -> str:
        later, luck = ids[0], sum(ids) % 100
        return f"{0.6 * later + 0.004 * luck} {'right' if luck % 2 else 'wrong'}"


@dataclass
class _Answers:
    """In an engine's place: random tokens, the first of which says whether it is a later turn; calls are noted."""

    arithmetic: ClassVar[Arithmetic] = "none"
    batch_size: ClassVar[int] = 1
    lengths: Lengths
    words: int
    calls: list[Sampled] = field(default_factory=list)
    known: float = 0.0
    """Mean tokens that the next call continues from."""

    @property
    def chat(self) -> Chat:
        return cast(Chat, _Texts(self.lengths, self.words))

    def sample(
        self, requests: Sequence[Request], *, temperature: float, max_tokens: int, keep: bool = False
    ) -> list[Sample]:
        """Responses, their lengths spread around the mean."""
        if not requests:
            return []
        samples = [self._sample(request, max_tokens) for request in requests]
        lengths, prompts = [len(s.ids) for s in samples], [request.prompt_ids for request in requests]
        whole = mean(map(len, prompts))
        fresh = ceil(whole - self.known)
        self.known = whole + mean(lengths)
        self.calls.append(Sampled(len(requests), len(set(prompts)), ceil(whole), fresh, mean(lengths), max(lengths)))
        return samples

    def _sample(self, request: Request, limit: int) -> Sample:
        response = min(self.lengths.response, limit)
        spread = SPREAD if response < limit else 0.0
        z = np.random.default_rng(request.seed).standard_normal()
        length = round(response * float(np.exp(spread * z - spread**2 / 2)))
        ids = _tokens(request.seed, max(1, min(limit, length)), self.words)
        return Sample((int(bool(self.calls)), *ids[1:]), (0.0,) * len(ids), "stop")


def _tokens(seed: int, count: int, words: int) -> tuple[int, ...]:
    return tuple(np.random.default_rng(seed).integers(1, words, count).tolist())
