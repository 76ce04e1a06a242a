"""A small world for tests: a Llama with random weights, a word tokenizer, and a task that can be learned in seconds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from scorl.model.policy import Policy
from scorl.recipe import EngineSettings, Recipe, TaskChoice
from scorl.settings import LoraSettings, ModelSettings
from scorl.tasks import TASKS
from scorl.tasks.task import Task
from scorl.tasks.turns import Turn
from scorl.training.stage import Stage
from scorl.trajectory import Problem, Verdict, user

__all__ = ["WORDS", "half_right", "letters", "letters_recipe", "save_model", "save_tokenizer", "tiny_policy"]

WORDS = ["a", "b", "c", "d", "e", "f", "say", "again"]
TEMPLATE = (
    "{%- for m in messages -%}{{ '<' + m.role + '>' + m.content }}"
    "{%- if m.role == 'assistant' -%}{{ '<end>' }}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<assistant>' }}{%- endif -%}"
)


def save_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Write a tokenizer of a few words, with a chat template."""
    special = ["<pad>", "<end>", "<user>", "<assistant>"]
    vocabulary = {word: i for i, word in enumerate([*special, *WORDS, "?"])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    words.add_special_tokens(special)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>", pad_token="<pad>")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return tokenizer


def save_model(folder: Path, seed: int = 0, width: int = 32) -> str:
    """Write a Llama of two layers and two heads with its tokenizer; the folder's path."""
    vocabulary = save_tokenizer(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=width,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        eos_token_id=1,
        pad_token_id=0,
        bos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


def tiny_policy(folder: Path, seed: int = 0, lora: LoraSettings | None = None, width: int = 32) -> Policy:
    """A policy over `save_model`."""
    return Policy(save_model(folder, seed, width), lora=lora)


@dataclass(frozen=True)
class _Letters:
    def draw(self, count: int, start: int, seed: int) -> list[Problem]:
        return [_problem(i % 3) for i in range(start, start + count)]

    def take(self, limit: int | None) -> list[Problem]:
        return [_problem(i) for i in range(3)][:limit]


def letters() -> Task:
    """Say the letter that is named: right if the response is that letter and nothing else."""
    problems = _Letters()
    return Task("letters", {"train": problems, "test": problems}, "again", _judge)


def half_right() -> Task:
    """The same with first attempts given, of which every other one is right, and verifications between attempts: `e`
    says right, `f` wrong."""
    given = _Given()
    return replace(letters(), splits={"train": given, "test": given}, between=_verify)


def _verify(correction: str, attempts: int) -> tuple[Turn, ...]:
    check = Turn("say", "verification", claim=lambda text: {"e": True, "f": False}.get(text.strip()))
    return (check, Turn(correction)) * (attempts - 1)


@dataclass(frozen=True)
class _Given:
    def draw(self, count: int, start: int, seed: int) -> list[Problem]:
        problems = letters().split("train").draw(count, start, seed)
        right = [problem.answer if (start + n) % 2 else WORDS[3] for n, problem in enumerate(problems)]
        return [replace(problem, first_attempt=first) for problem, first in zip(problems, right, strict=True)]

    def take(self, limit: int | None) -> list[Problem]:
        problems = enumerate(self.draw(6, 0, 0)[:limit])
        return [replace(problem, id=f"{problem.id}-{n}") for n, problem in problems]  # an evaluation goes by the id


def letters_recipe(model: str, stages: tuple[Stage, ...], max_tokens: int) -> Recipe:
    """A recipe for a run of `letters`, which no recipe names: another task stands in its place."""
    task = TaskChoice("countdown", settings=TASKS["countdown"][0]())
    engine = EngineSettings(max_tokens=max_tokens)
    return Recipe(model=ModelSettings(model), task=task, stages=stages, engine=engine)


def _problem(number: int) -> Problem:
    letter = WORDS[number]
    return Problem(f"letters-{letter}", (user(f"say {letter}"),), answer=letter, solution=letter)


def _judge(pairs: object) -> list[Verdict]:
    return [
        Verdict(float(text.strip() == problem.answer), "correct", "", text.strip())
        for problem, text in pairs  # type: ignore[attr-defined]
    ]
