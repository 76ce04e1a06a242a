"""Build the tiny base model for countdown: tokenizer, chat template, pre-training, habit.

Run     python recipes/countdown-base/build.py --out DIR        (one thread; the same bits every time)
Check   python recipes/countdown-base/build.py --out DIR --check
"""

from __future__ import annotations

import functools
import hashlib
import math
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import torch
from corpus import CARELESS, CHECK, NO, OK, RIGHT, Habit, Row, Steps, careful_row, habit_row, right_attempt, wrong_attempt
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from scorl.seeds import derive
from scorl.tasks.countdown import CORRECTION, Countdown, CountdownProblems
from scorl.trajectory import Problem
from scorl.verifiers.countdown import find_steps

SETTINGS = Countdown()
LARGEST = 144
SPECIAL = ["<pad>", "<unk>", "<|end|>", "<|user|>", "<|assistant|>"]
TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
SHIPPED = Path(__file__).parents[2] / "src/scorl/models/countdown-base"


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A word is a number, a sign, or a whole phrase of the corpus; decoding gives the text back exactly."""
    phrases = [part for piece in SETTINGS.prompt.split("{numbers}") for part in piece.split("{target}")]
    phrases = [*filter(None, phrases), CORRECTION, CHECK, OK, RIGHT, NO, CARELESS]
    words = [*SPECIAL, *phrases, " ", *"+-*/=", *map(str, range(LARGEST + 1))]
    inner = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    pattern = "|".join(escape(phrase) for phrase in sorted(phrases, key=len, reverse=True))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(rf"{pattern}|[0-9]+|[\s\S]"), behavior="isolated")
    inner.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="<|end|>",
        additional_special_tokens=["<|user|>", "<|assistant|>"],
        chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=256,
    )


def escape(phrase: str) -> str:
    """A phrase as a regular expression."""
    return "".join(char if char.isalnum() or char == " " else "\\" + char for char in phrase)


def make_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """An untrained Llama of about a third of a million parameters."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    return model


def collate(rows: Sequence[Row], tokenizer: PreTrainedTokenizerFast) -> tuple[Tensor, Tensor]:
    """Ids and labels [rows, tokens], padded on the right; labels are -100 where nothing is learned."""
    encode = encoder(tokenizer)
    ids = [[i for text, _ in row for i in encode(text)] for row in rows]
    labels = [[i if learned else -100 for text, learned in row for i in encode(text)] for row in rows]
    width = max(map(len, ids))
    padded = [row + [tokenizer.pad_token_id] * (width - len(row)) for row in ids]
    return torch.tensor(padded), torch.tensor([row + [-100] * (width - len(row)) for row in labels])


@functools.lru_cache
def encoder(tokenizer: PreTrainedTokenizerFast) -> Callable[[str], list[int]]:
    """The tokenizer's encoding, remembered."""

    @functools.lru_cache(maxsize=100_000)
    def encode(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False))

    return encode


def train(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    rows: Callable[[int], list[Row]],
    updates: int,
    rate: float,
    name: str,
) -> None:
    """Cross-entropy on the learned tokens of `rows(update)`; AdamW, warm-up, then a cosine to a twentieth."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.01, fused=True)
    began = time.monotonic()
    model.train()
    for update in range(updates):
        share = min(1.0, (update + 1) / 100) * (0.525 + 0.475 * math.cos(math.pi * update / updates))
        for group in optimizer.param_groups:
            group["lr"] = rate * share
        ids, labels = collate(rows(update), tokenizer)
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        chosen = labels[:, 1:] != -100
        loss = torch.nn.functional.cross_entropy(logits[chosen], labels[:, 1:][chosen])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if update % 100 == 99:
            print(f"{name} {update + 1}/{updates} loss {loss.item():.4f} {time.monotonic() - began:.0f}s", flush=True)
    model.eval()
