"""Chat templates in the shapes that exist in the wild, written for these tests, with small tokenizers.

chat = chat_of("gemma")                      # over a byte-level tokenizer
chat = chat_of("inst", "pieces")             # over one that marks words by a leading space, as sentencepiece
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from scorl.model.chat import Chat

__all__ = ["SHAPES", "Shape", "chat_of", "tokenizer_of"]


@dataclass(frozen=True)
class Shape:
    """A chat template and the special tokens that go with it."""

    template: str
    eos: str
    bos: str | None = None
    listed: tuple[str, ...] = ()
    """The end tokens of the generation config."""


CHATML = (
    "{%- if messages[0].role != 'system' -%}"
    "{{ '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}{%- endif %}"
    "{%- for m in messages -%}{{ '<|im_start|>' + m.role + '\n' + CONTENT + '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif %}"
)
LLAMA3 = (
    "{{- bos_token }}{%- for m in messages %}"
    "{{- '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
)
GEMMA = (
    "{{ bos_token }}{%- if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}"
    "{%- endif %}{%- for m in messages %}"
    "{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate') }}{%- endif %}"
    "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else 'user') + '\n' + m.content | trim"
    " + '<end_of_turn>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{%- endif %}"
)
WITHOUT_THOUGHT = (
    "(m.content.split('</think>')[-1].lstrip('\n') if m.role == 'assistant' and not loop.last else m.content)"
)
MARKER = (
    "{%- for m in messages -%}{{ 'User: ' if m.role == 'user' else 'Assistant: ' }}{{ m.content }}{{ '\n' }}"
    "{%- endfor %}{%- if add_generation_prompt -%}{{ 'Assistant: ' }}{%- endif %}"
)
ROLE_TOKEN = (
    "{%- for m in messages -%}{{ '<|' + m.role + '|>\n' + m.content }}{%- endfor %}"
    "{%- if add_generation_prompt -%}{{ '<|assistant|>\n' }}{%- endif %}"
)
ROUNDS = (
    "{%- set ns = namespace(round=0) -%}{%- for m in messages -%}{%- if m.role == 'user' -%}"
    "{%- set ns.round = ns.round + 1 -%}{{ 'Round ' ~ ns.round ~ ': ' + m.content + '\nAnswer: ' }}"
    "{%- else -%}{{ m.content + '<|im_end|>\n' }}{%- endif %}{%- endfor %}"
)
INST = (
    "{{ bos_token }}{%- for m in messages -%}{%- if m.role == 'user' -%}"
    "{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{%- else -%}{{ ' ' + m.content | trim + ' ' + eos_token }}{%- endif %}{%- endfor %}"
)
CHANNELS = (  # an answer ends in one token when it is the last, in another when something follows
    "{%- for m in messages -%}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>' + m.content }}"
    "{{ '<|return|>' if loop.last and m.role == 'assistant' else '<|eom_id|>' }}{%- endfor %}"
    "{%- if add_generation_prompt -%}<|start_header_id|>assistant<|end_header_id|>{%- endif %}"
)

SHAPES: dict[str, Shape] = {
    "chatml": Shape(CHATML.replace("CONTENT", "m.content"), "<|im_end|>", listed=("<|im_end|>", "<|endoftext|>")),
    "llama3": Shape(LLAMA3, "<|eot_id|>", "<|begin_of_text|>", ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>")),
    "gemma": Shape(GEMMA, "<eos>", "<bos>"),
    "think": Shape(CHATML.replace("CONTENT", WITHOUT_THOUGHT), "<|endoftext|>"),
    "trims": Shape(CHATML.replace("CONTENT", "m.content | trim").replace("<|im_end|>", "\n<|im_end|>"), "</s>"),
    "marker": Shape(MARKER, "</s>"),
    "role_token": Shape(ROLE_TOKEN, "<|endoftext|>", listed=("<|endoftext|>", "<|user|>")),
    "rounds": Shape(ROUNDS, "<|im_end|>"),
    "inst": Shape(INST, "</s>", "<s>"),
    "channels": Shape(CHANNELS, "<|return|>"),
}

SPECIAL = [
    "<s>",
    "</s>",
    "<bos>",
    "<eos>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|user|>",
    "<|assistant|>",
    "<|return|>",
]

CORPUS = [
    "The answer is 4.\n\nThere might be an error. Solve it again.\nUser: What is 2 + 2?\nAssistant: four\n" * 3,
    "system\nYou are helpful.\nuser\nmodel\nassistant\nRound 1: Round 2: [INST] x [/INST] 4 x\nUser: y\n" * 3,
    "qz\n" * 24,  # the end of the dummy answer and what follows: one token where words may merge
]


@cache
def _backend(kind: str) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    if kind == "bytes":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
    elif kind == "glue":  # no word boundaries: tokens reach from one line, and one turn, into the next
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.decoder = decoders.ByteLevel()
    else:
        lines = pre_tokenizers.Split("\n", "isolated")
        words = pre_tokenizers.Metaspace(prepend_scheme="first")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, lines])
        tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    alphabet = pre_tokenizers.ByteLevel.alphabet() if kind != "pieces" else [chr(i) for i in range(10, 127)]
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def tokenizer_of(name: str, kind: str = "bytes") -> PreTrainedTokenizerFast:
    """A tokenizer of a kind (`bytes`, `pieces`, `glue`) with a template; it adds bos itself, as many do."""
    shape = SHAPES[name]
    backend = Tokenizer.from_str(_backend(kind).to_str())
    if shape.bos is not None:
        bos = (shape.bos, backend.token_to_id(shape.bos))
        backend.post_processor = processors.TemplateProcessing(single=f"{shape.bos} $A", special_tokens=[bos])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=shape.eos, bos_token=shape.bos, name_or_path=name
    )
    tokenizer.chat_template = shape.template
    return tokenizer


@cache
def chat_of(name: str, kind: str = "bytes") -> Chat:
    """The chat of the named template."""
    tokenizer = tokenizer_of(name, kind)
    return Chat.of(tokenizer, tokenizer.convert_tokens_to_ids(list(SHAPES[name].listed)) or None)
