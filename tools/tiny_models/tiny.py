"""What the tiny base models share: tokenizer, chat template, model, training, and the command that builds one."""

from __future__ import annotations

import functools
import hashlib
import itertools
import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import click
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

__all__ = ["command", "encode", "make_model", "make_tokenizer", "sample", "train"]

Row = list[tuple[str, bool]]
"""Pieces of a text, and whether each is learned or only read."""
Batch = tuple[Tensor, Tensor]
Lesson = Callable[[LlamaForCausalLM, PreTrainedTokenizerFast], None]
BATCH = 64
SPECIAL = ["<pad>", "<unk>", "<|end|>", "<|user|>", "<|assistant|>"]
TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
MODELS = Path(__file__).parents[2] / "src/scorl/models"


def make_tokenizer(phrases: Sequence[str], signs: str, largest: int) -> PreTrainedTokenizerFast:
    """A word is a number, a sign, or a whole phrase of the corpus; decoding gives the text back exactly."""
    words = [*SPECIAL, *phrases, " ", *signs, *map(str, range(largest + 1))]
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
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    return model


@torch.no_grad()
def sample(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: Sequence[str], samples: int, tokens: int
) -> list[list[str]]:
    """Responses to prompts of one length at temperature 1: so many for each prompt, without the end token."""
    ids = torch.tensor([encode(tokenizer, prompt) for prompt in prompts]).repeat_interleave(samples, 0)
    mask = torch.ones_like(ids)
    written = model.generate(ids, attention_mask=mask, do_sample=True, top_k=0, max_new_tokens=tokens)
    texts = [text.split("<|end|>")[0] for text in tokenizer.batch_decode(written[:, ids.shape[1] :])]
    return [texts[at : at + samples] for at in range(0, len(texts), samples)]


def batches(rows: Iterable[Row], tokenizer: PreTrainedTokenizerFast) -> Iterator[Batch]:
    """Batches of rows of about one length: eight at a time, cut from sorted rows."""
    encoded, rng = (encode_row(row, tokenizer) for row in rows), random.Random(0)
    while pool := sorted(itertools.islice(encoded, 8 * BATCH), key=len):
        cuts = [pool[at : at + BATCH] for at in range(0, len(pool), BATCH)]
        rng.shuffle(cuts)
        yield from map(collate, cuts)


def encode_row(row: Row, tokenizer: PreTrainedTokenizerFast) -> list[tuple[int, int]]:
    """Each token's id and its label, which is -100 where nothing is learned."""
    return [(i, i if learned else -100) for text, learned in row for i in encode(tokenizer, text)]


@functools.lru_cache(maxsize=200_000)
def encode(tokenizer: PreTrainedTokenizerFast, text: str) -> tuple[int, ...]:
    """The tokenizer's encoding, remembered."""
    return tuple(tokenizer.encode(text, add_special_tokens=False))


def collate(rows: Sequence[Sequence[tuple[int, int]]]) -> Batch:
    """Ids and labels [rows, tokens], padded on the right."""
    width = max(map(len, rows))
    both = torch.tensor([[*row, *[(0, -100)] * (width - len(row))] for row in rows])
    return both[..., 0], both[..., 1]


def train(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    rows: Iterable[Row],
    updates: int,
    rate: float,
    name: str,
) -> None:
    """Cross-entropy on the learned tokens; AdamW, warm-up, then a cosine down to a twentieth of the rate."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.01, fused=True)
    began, losses = time.monotonic(), []
    for update, (ids, labels) in enumerate(itertools.islice(batches(rows, tokenizer), updates)):
        share = min(1.0, (update + 1) / 100) * (0.525 + 0.475 * math.cos(math.pi * update / updates))
        optimizer.param_groups[0]["lr"] = rate * share
        learned = labels[:, 1:] != -100
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1][learned]
        loss = torch.nn.functional.cross_entropy(model.lm_head(hidden), labels[:, 1:][learned])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        if update % 100 == 99:
            mean = sum(losses[-100:]) / 100
            print(f"{name} {update + 1}/{updates} loss {mean:.4f} {time.monotonic() - began:.0f}s", flush=True)


def command(
    name: str, help: str, tokenizer: Callable[[], PreTrainedTokenizerFast], teach: Lesson, acquire: Lesson
) -> click.Command:
    """The command line of a build: teaches a new model, then its habit, and compares it with the shipped one."""

    @click.command(name, help=help)
    @click.option("--out", type=click.Path(path_type=Path), required=True, help="The folder to write the model to.")
    @click.option("--keep", type=click.Path(path_type=Path), help="Keep the model before its habit in this folder.")
    @click.option(
        "--teacher", type=click.Path(path_type=Path, exists=True), help="Only teach the habit to a kept model."
    )
    @click.option("--check", is_flag=True, help="Afterwards compare the files with the shipped ones.")
    def build(out: Path, keep: Path | None, teacher: Path | None, check: bool) -> None:
        torch.set_num_threads(1)
        torch.use_deterministic_algorithms(True)
        words = tokenizer()
        model = LlamaForCausalLM.from_pretrained(teacher) if teacher else make_model(words)
        if not teacher:
            teach(model, words)
        if keep:
            save(model, words, keep)
        acquire(model, words)
        save(model, words, out)
        if check:
            compare(out, MODELS / name)

    return build


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Writes an ordinary Hugging Face folder."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def compare(built: Path, shipped: Path) -> None:
    """Says that two model folders are the same to the bit.

    Raises:
        click.ClickException: they are not.
    """
    new, old = digests(built), digests(shipped)
    if different := [name for name in sorted(old | new) if old.get(name) != new.get(name)]:
        raise click.ClickException(f"these files differ from the shipped ones: {', '.join(different)}")
    click.echo("every file equals the shipped one")


def digests(folder: Path) -> dict[str, str]:
    """The sha256 of each file of a model folder."""
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.iterdir())}
