"""How long a recipe's texts are: its problems rendered and counted, or what an earlier run wrote."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile
from pathlib import Path
from statistics import mean
from typing import Any

from scorl.errors import UserError
from scorl.model.chat import Chat
from scorl.model.loading import resolve_model
from scorl.planning.setup import Lengths, Response
from scorl.planning.shape import ModelShape
from scorl.recipe import Recipe
from scorl.run.directory import RunDirectory
from scorl.trajectory import Message

__all__ = ["Given", "lengths_in", "lengths_like", "lengths_of", "shape_of"]

CHARACTERS = 4
"""Characters of a token, where there is no tokenizer (a rule of thumb for English)."""
MEASURED = 64
"""Problems that are rendered."""


UNKNOWN_TURN = 64.0
"""Tokens that ask for another attempt, where the task cannot be read."""


@dataclass(frozen=True)
class Given:
    """Lengths in tokens that need not be found out; None: they are."""

    like: Path | None = None
    """A run whose attempts are measured."""
    prompt: float | None = None
    turn: float | None = None
    response: float | None = None
    """Mean of responses; their limit otherwise, which makes all that follows an upper bound."""
    longest: float | None = None


@dataclass(frozen=True)
class Counts:
    """Counts the tokens of a first prompt, and of what is appended for the n-th message of the user."""

    prompt: Callable[[Sequence[Message]], int]
    follow: Callable[[str, int], int]


def shape_of(recipe: Recipe, config: Path | None) -> ModelShape:
    """The shape of a recipe's model, by its configuration alone; no weights are loaded.

    Raises:
        UserError: there is no such configuration, or it cannot be read.
    """
    if config is not None:
        return ModelShape.of(_read(config))
    source = resolve_model(recipe.model.path)
    if source.gguf_file is None and (local := Path(source.path) / "config.json").is_file():
        return ModelShape.of(_read(local))
    from transformers import AutoConfig

    return ModelShape.of(_loaded(AutoConfig, recipe.model.path).to_dict())


def _counts(recipe: Recipe, by_name: bool) -> Counts:
    """How the recipe's model counts tokens; with `by_name` false, and without its tokenizer, by characters."""
    if not by_name:
        return Counts(_by_characters, lambda message, _: round(len(message) / CHARACTERS))
    from transformers import AutoTokenizer

    tokenizer = _loaded(AutoTokenizer, recipe.model.path)
    if recipe.model.chat_template is not None:
        tokenizer.chat_template = Path(recipe.model.chat_template).read_text(encoding="utf-8")
    chat = Chat.of(tokenizer)
    return Counts(
        lambda messages: len(chat.prompt(messages)), lambda message, turn: len(chat.follow((), (), message, turn))
    )


def lengths_of(recipe: Recipe, given: Given, by_name: bool) -> Lengths:
    """Lengths by what was given, by an earlier run, and by the task's first training problems.

    Args:
        recipe: its task, its turns, its limit of tokens.
        given: what need not be found out.
        by_name: whether the model's tokenizer can be had; else tokens are counted by characters.

    Raises:
        UserError: the task cannot be read, and its prompts' length is not given either.
    """
    if given.like:
        return lengths_like(given.like)
    limit = float(recipe.engine.max_tokens)
    tokens, longest = given.response or limit, given.longest or limit
    prompt, asked = _asked(recipe, given, by_name)
    first = Response(given.prompt or prompt, tokens, longest)
    return Lengths((first, *(Response(given.turn or n, tokens, longest, attempt) for n, attempt in asked)))


def _asked(recipe: Recipe, given: Given, by_name: bool) -> tuple[float, list[tuple[float, bool]]]:
    """Mean tokens of first prompts, and those of every later turn with whether an attempt answers it."""
    attempts = max([2, *(stage.attempts for stage in recipe.stages)])
    try:
        task = recipe.build_task()
        problems = task.split(recipe.task.split).draw(MEASURED, 0, recipe.seed)
    except UserError as error:
        if given.prompt is None:
            raise UserError(f"{error}\n  or say how long prompts are with --prompt-tokens") from None
        return given.prompt, [(given.turn or UNKNOWN_TURN, True)] * (attempts - 1)
    counts = _counts(recipe, by_name)
    turns = [
        (float(counts.follow(turn.message, i)), turn.role == "attempt")
        for i, turn in enumerate(task.turns(attempts), 1)
    ]
    return mean(counts.prompt(problem.prompt) for problem in problems), turns


def lengths_like(run: Path) -> Lengths:
    """Lengths as they were in a run.

    Raises:
        UserError: there are no attempts in it.
    """
    directory = RunDirectory(run)
    steps = [list(directory.attempts([step])) for step in directory.attempted_steps()]
    if not steps:
        raise UserError(f"{run}: holds no attempts, so no lengths to go by")
    return lengths_in(steps)


def lengths_in(steps: Sequence[Sequence[Mapping[str, Any]]]) -> Lengths:
    """Lengths of attempts, step by step as a run directory has them: of prompts, of responses, of each step's longest
    response, and what the responses of a problem have in common."""
    lines = [line for step in steps for line in step]
    turns = sorted({line["turn"] for line in lines})
    return Lengths(tuple(_like(steps, turn) for turn in turns), _distinct(lines))


def _like(steps: Sequence[Sequence[Mapping[str, Any]]], turn: int) -> Response:
    mine = [[line for line in step if line["turn"] == turn] for step in steps]
    written = [line for step in mine for line in step]
    if turn == 0:
        asked = mean(line["prompt_tokens"] for line in written)
    else:
        pairs = [(a, b) for step in steps for a, b in pairwise(step) if b["turn"] == turn and a["turn"] == turn - 1]
        asked = mean(b["prompt_tokens"] - a["prompt_tokens"] - a["tokens"] for a, b in pairs)
    longest = mean(max(line["tokens"] for line in step) for step in mine if step)
    return Response(asked, mean(line["tokens"] for line in written), longest)


def _distinct(lines: Sequence[Mapping[str, Any]]) -> float:
    """The share of characters that no other trajectory of the same problem and step begins with as well."""
    texts: dict[tuple[Any, ...], list[str]] = defaultdict(list)
    for line in lines:
        texts[line["step"], line["problem"], line["sample"], line["branch"]].append(line["text"])
    groups: dict[tuple[Any, ...], list[str]] = defaultdict(list)
    for (step, problem, *_), written in texts.items():
        groups[step, problem].append("\0".join(written) + "\0")
    shared = sum(_shared(*pair) for group in groups.values() for pair in pairwise(sorted(group)))
    return 1 - shared / sum(len(text) for group in groups.values() for text in group)


def _shared(one: str, other: str) -> int:
    """How many characters two texts begin with in common."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _by_characters(messages: Sequence[Message]) -> int:
    return round(sum(len(message["content"]) for message in messages) / CHARACTERS)


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read a model's configuration from {path}: {error}") from None
    return found


def _loaded(kind: Any, name: str) -> Any:
    """`from_pretrained` of a configuration or a tokenizer."""
    source = resolve_model(name)
    options = {"gguf_file": source.gguf_file} if source.gguf_file else {}
    try:
        return kind.from_pretrained(source.path, **options)
    except (OSError, ValueError, ImportError) as error:
        raise UserError(
            f"cannot read the configuration of '{name}': {str(error).splitlines()[0]}\n"
            "  give its config.json with --config FILE; tokens are then counted by characters"
        ) from error
