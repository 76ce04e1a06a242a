"""The shape of a decoder, read off its Hugging Face config, and how many numbers it holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scorl.errors import UserError
from scorl.settings import LoraSettings

__all__ = ["ModelShape"]

FOUR_NORMS = {"gemma2", "gemma3", "gemma3_text"}
"""Types with a norm before and behind both halves of a layer; the others have one before each."""
HEAD_NORMS = {"qwen3", "gemma3", "gemma3_text"}
"""Types that normalise each head's queries and keys."""
QUERY_BIAS = {"qwen2", "qwen2_vl"}
"""Types whose queries, keys and values have a bias, whatever their config says."""
TIED = {"gemma", "gemma2", "gemma3", "gemma3_text"}
"""Types whose head is the embedding where the config does not say."""
SIZES = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size", "vocab_size")
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


@dataclass(frozen=True)
class ModelShape:
    """A decoder of gated layers: sizes in numbers, not bytes."""

    layers: int
    width: int
    heads: int
    groups: int
    """Heads of keys and values, each shared by `heads / groups` heads of queries."""
    head_size: int
    inner: int
    """Width between the two matrices of a layer's second half."""
    vocabulary: int
    tied: bool
    """Whether the output head is the embedding."""
    norms: int
    """Norms of a layer as wide as the model."""
    small: int
    """Numbers in the norms and biases of one layer."""
    positions: int | None
    """The longest context."""
    windowed: bool
    """Whether a layer looks back over a window only: the engine then keeps nothing between two turns."""

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> ModelShape:
        """The shape that a `config.json` describes.

        Raises:
            UserError: it lacks a size, or its layers are mixtures of experts.
        """
        config = config.get("text_config") or config
        if experts := next((key for key in EXPERTS if config.get(key)), None):
            raise UserError(f"the model's config has {experts}: mixtures of experts cannot be planned")
        if missing := [key for key in SIZES if not config.get(key)]:
            raise UserError(
                f"the model's config lacks {', '.join(missing)}: only decoders of Llama's kind can be planned"
            )
        kind, layers, width, heads = config.get("model_type", ""), *(config[key] for key in SIZES[:3])
        groups = config.get("num_key_value_heads") or heads
        head_size = config.get("head_dim") or width // heads
        kinds = set(config.get("layer_types") or ())
        window = config.get("sliding_window") is not None and config.get("use_sliding_window", True)
        return cls(
            layers=layers,
            width=width,
            heads=heads,
            groups=groups,
            head_size=head_size,
            inner=config["intermediate_size"],
            vocabulary=config["vocab_size"],
            tied=bool(config.get("tie_word_embeddings", kind in TIED)),
            norms=4 if kind in FOUR_NORMS else 2,
            small=_small(config, heads * head_size, groups * head_size, head_size),
            positions=config.get("max_position_embeddings"),
            windowed=bool(kinds - {"full_attention"}) or (window and not kinds),
        )

    @property
    def query_width(self) -> int:
        """Numbers of a token's queries."""
        return self.heads * self.head_size

    @property
    def key_width(self) -> int:
        """Numbers of a token's keys, and of its values."""
        return self.groups * self.head_size

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """The matrices of one layer by name: numbers in, numbers out."""
        return {
            "q_proj": (self.width, self.query_width),
            "k_proj": (self.width, self.key_width),
            "v_proj": (self.width, self.key_width),
            "o_proj": (self.query_width, self.width),
            "gate_proj": (self.width, self.inner),
            "up_proj": (self.width, self.inner),
            "down_proj": (self.inner, self.width),
        }

    @property
    def body(self) -> int:
        """Numbers in the matrices of all layers: every token passes through them."""
        return self.layers * sum(a * b for a, b in self.linears.values())

    @property
    def head(self) -> int:
        """Numbers in the output head: every prediction passes through it."""
        return self.width * self.vocabulary

    @property
    def parameters(self) -> int:
        """All weights, the last norm included."""
        return self.body + self.layers * self.small + self.width + self.head * (1 if self.tied else 2)

    def adapters(self, lora: LoraSettings) -> int:
        """Numbers in low-rank adapters; targets that are no names of `linears` count as none.

        >>> shape = ModelShape(1, 4, 2, 1, 2, 8, 10, True, 2, 8, None, False)
        >>> shape.adapters(LoraSettings(r=2, target_modules=("k_proj",)))
        12
        """
        sizes = self.linears
        named = sizes if lora.target_modules == "all-linear" else [n for n in sizes if n in lora.target_modules]
        return self.layers * lora.r * sum(sum(sizes[name]) for name in named)

    def cache(self, size: int) -> int:
        """Bytes of the keys and values of one token, at `size` bytes a number."""
        return 2 * self.layers * self.key_width * size


def _small(config: Mapping[str, Any], queries: int, keys: int, head_size: int) -> int:
    """Numbers in the norms and biases of one layer."""
    kind, width, inner = config.get("model_type", ""), config["hidden_size"], config["intermediate_size"]
    found = width * (4 if kind in FOUR_NORMS else 2) + (2 * head_size if kind in HEAD_NORMS else 0)
    if kind in QUERY_BIAS:
        found += queries + 2 * keys
    elif config.get("attention_bias"):
        found += queries + 2 * keys + width
    return int(found + (2 * inner + width if config.get("mlp_bias") else 0))
