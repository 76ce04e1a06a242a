"""Build the tiny base model for countdown: tokenizer, chat template, pre-training, habit.

Run     python recipes/countdown-base/build.py --out DIR        (one thread; the same bits every time)
Check   python recipes/countdown-base/build.py --out DIR --check
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import math
import random
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import click
import torch
from corpus import (
    CARELESS,
    CHECK,
    LARGEST,
    NO,
    OK,
    RIGHT,
    Habit,
    Row,
    Steps,
    careful_row,
    habit_row,
    prompt,
    right_attempt,
    sums_row,
    wrong_attempt,
)
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from scorl.seeds import derive
from scorl.tasks.countdown import CORRECTION, Countdown, CountdownProblems
from scorl.trajectory import Problem
from scorl.verifiers.countdown import fault, find_steps

Batch = tuple[Tensor, Tensor]
SETTINGS = Countdown()
BATCH = 64
SUMS_UPDATES, FIRST_UPDATES, OWN_UPDATES, HABIT_UPDATES = 400, 2200, 900, 300
PROBLEMS, SAMPLES = 8192, 4
PHASES = {"first": (0, 1), "own": (2,), "habit": (3,)}
"""The quarters of the problems that each phase reads."""
SPECIAL = ["<pad>", "<unk>", "<|end|>", "<|user|>", "<|assistant|>"]
TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
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
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    return model


def invented(problem: Problem, rng: random.Random) -> list[Steps]:
    """A right or a wrong first attempt, and failing tries, made up."""
    first = right_attempt(problem, rng) if rng.random() < 0.4 else wrong_attempt(problem, rng)
    return [first, wrong_attempt(problem, rng), wrong_attempt(problem, rng)]


def own(attempts: Sequence[Steps], problem: Problem, rng: random.Random) -> list[Steps]:
    """A right first attempt or one of the model's own, and its own wrong ones as failing tries."""
    numbers, target = problem.answer["numbers"], problem.answer["target"]
    attempts = rng.sample(attempts, len(attempts))
    first = right_attempt(problem, rng) if rng.random() < 0.4 or not attempts else attempts[0]
    return [first, *(steps for steps in attempts if steps != first and fault(steps, numbers, target))]


@torch.no_grad()
def sample(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, source: Iterator[Problem]
) -> list[tuple[Problem, list[Steps]]]:
    """The model's own different first attempts at problems, from a few samples at temperature 1."""
    torch.manual_seed(1)
    found: list[tuple[Problem, list[Steps]]] = []
    while len(found) < PROBLEMS:
        chunk = list(itertools.islice(source, 512))
        ids = torch.tensor([encode(tokenizer, prompt(problem)) for problem in chunk]).repeat_interleave(SAMPLES, 0)
        mask = torch.ones_like(ids)
        written = model.generate(ids, attention_mask=mask, do_sample=True, top_k=0, max_new_tokens=20)
        steps = [find_steps(text.split("<|end|>")[0]) for text in tokenizer.batch_decode(written[:, ids.shape[1] :])]
        for index, problem in enumerate(chunk):
            attempts = steps[index * SAMPLES : (index + 1) * SAMPLES]
            found.append((problem, [way for at, way in enumerate(attempts) if way and way not in attempts[:at]]))
    return found


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


def train(model: LlamaForCausalLM, data: Iterator[Batch], updates: int, rate: float, name: str) -> None:
    """Cross-entropy on the learned tokens; AdamW, warm-up, then a cosine down to a twentieth of the rate."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.01, fused=True)
    began, losses = time.monotonic(), []
    for update, (ids, labels) in enumerate(itertools.islice(data, updates)):
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


def build(out: Path, teacher: Path | None, keep: Path | None) -> None:
    """Train the base model, or only its habit on top of a kept teacher, and save it."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    tokenizer = make_tokenizer()
    model = LlamaForCausalLM.from_pretrained(teacher) if teacher else make_model(tokenizer)
    if not teacher:
        teach(model, tokenizer)
    if keep:
        model.save_pretrained(keep)
        tokenizer.save_pretrained(keep)
    acquire(model, tokenizer, Habit())
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def teach(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """Arithmetic; then first attempts and careful second ones, on made-up errors and on the model's own."""
    rng = random.Random(1)
    rows = (sums_row(problem, rng) for problem in problems("first"))
    train(model, batches(rows, tokenizer), SUMS_UPDATES, 3e-3, "sums")
    rows = (careful_row(problem, invented(problem, rng), rng) for problem in problems("first"))
    train(model, batches(rows, tokenizer), FIRST_UPDATES, 3e-3, "first")
    samples = sample(model, tokenizer, problems("own"))
    rows = (careful_row(problem, own(attempts, problem, rng), rng) for problem, attempts in itertools.cycle(samples))
    train(model, batches(rows, tokenizer), OWN_UPDATES, 1e-3, "own")


def acquire(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, habit: Habit) -> None:
    """The habit of copies and careless second attempts, on the model's own first ones."""
    rng = random.Random(2)
    samples = sample(model, tokenizer, problems("habit"))
    rows = (
        habit_row(problem, own(attempts, problem, rng), habit, rng) for problem, attempts in itertools.cycle(samples)
    )
    train(model, batches(rows, tokenizer), HABIT_UPDATES, 3e-4, "habit")


def problems(phase: str) -> Iterator[Problem]:
    """Endless problems for one phase; no two phases share one, so the own attempts are at problems never seen."""
    split = CountdownProblems(SETTINGS, "pretraining")
    for position in itertools.count():
        (problem,) = split.draw(1, position, derive("countdown-base", phase))
        if derive("countdown-base", problem.id) % 4 in PHASES[phase]:
            yield problem


def digests(folder: Path) -> dict[str, str]:
    """The sha256 of each file of a model folder."""
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.iterdir())}


@click.command(help=__doc__)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The folder to write the model to.")
@click.option("--keep", type=click.Path(path_type=Path), help="Keep the model before its habit in this folder.")
@click.option("--teacher", type=click.Path(path_type=Path, exists=True), help="Only teach the habit to a kept model.")
@click.option("--check", is_flag=True, help="Afterwards compare the files with the shipped ones.")
def main(out: Path, keep: Path | None, teacher: Path | None, check: bool) -> None:
    build(out, teacher, keep)
    if check:
        shipped, built = digests(SHIPPED), digests(out)
        different = [name for name in sorted(shipped | built) if shipped.get(name) != built.get(name)]
        if different:
            raise click.ClickException(f"these files differ from the shipped ones: {', '.join(different)}")
        click.echo("every file equals the shipped one")


if __name__ == "__main__":
    main()
