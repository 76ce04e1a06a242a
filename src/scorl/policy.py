"""The policy: a Hugging Face decoder, its tokenizer and chat, what of it is trained, and the reference."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from scorl.chat import Chat
from scorl.errors import UserError
from scorl.settings import Dtype, LoraSettings
from scorl.sources import Source, locate

__all__ = ["Policy", "Reference", "final_logits", "hidden_states"]


class Policy:
    """A causal language model that is sampled from and trained.

    Args:
        path: whatever `scorl.sources.locate` understands.
        dtype: of the weights.
        device: `auto` takes a GPU where there is one.
        lora: train adapters instead of all weights.
        chat_template: a jinja file to use in place of the tokenizer's template.
    """

    def __init__(
        self,
        path: str,
        *,
        dtype: Dtype = "float32",
        device: str = "auto",
        lora: LoraSettings | None = None,
        chat_template: str | None = None,
    ) -> None:
        self.path = path
        self.device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        source = locate(path)
        self.tokenizer: Any = _load(AutoTokenizer, source, path)
        if chat_template is not None:
            self.tokenizer.chat_template = Path(chat_template).read_text()
        model = _load(AutoModelForCausalLM, source, path, dtype=getattr(torch, dtype))
        if source.gguf_file:
            _forget_quantization(model)
        self.lora = lora
        self.model: Any = (_with_adapters(model, lora) if lora else model).to(self.device).eval()
        generation = model.generation_config
        self.chat = Chat.of(self.tokenizer, generation.eos_token_id if generation else None)
        if not _head_is_plain(self.decoder):
            raise UserError(
                f"{path}: this model does more than a linear head and a soft cap after its last layer; not supported"
            )

    @property
    def decoder(self) -> Any:
        """The Hugging Face model itself, adapters (if any) in place inside it."""
        return self.model.get_base_model() if self.lora else self.model

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The trainable parameters by name."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    @property
    def max_positions(self) -> int | None:
        """The longest context in tokens, where the model names one."""
        return getattr(self.decoder.config, "max_position_embeddings", None)

    def set_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Exchange the trainable parameters' storage, unseen by autograd; the tensors are taken, not copied."""
        for name, parameter in self.parameters.items():
            parameter.data = weights[name]

    def save(self, folder: Path) -> None:
        """Write an ordinary Hugging Face folder; adapters are merged into a copy of the weights."""
        model = self.decoder
        if self.lora:
            model = copy.deepcopy(self.model).merge_and_unload()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


class Reference:
    """The policy that the KL is measured against; it changes only by `renew`.

    Full fine-tuning keeps a frozen copy of the model. With adapters the reference is the model without them, which
    costs no memory, until `renew` keeps a copy of the adapters' weights as they stand.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._copy = None if policy.lora else _frozen(policy.model)
        self._adapters: dict[str, Tensor] | None = None
        self.renewed = False
        if policy.lora and any(p.any() for name, p in policy.parameters.items() if "lora_B" in name):
            self.renew()  # the adapters were trained before: without them it would be another policy

    @contextmanager
    def active(self) -> Iterator[Any]:
        """The Hugging Face model of the reference; the policy's own weights are back in place afterwards."""
        if self._copy is not None:
            yield self._copy
        elif self._adapters is None:
            with self._policy.model.disable_adapter():
                yield self._policy.decoder
        else:
            own = {name: p.data for name, p in self._policy.parameters.items()}
            self._policy.set_weights(self._adapters)
            try:
                yield self._policy.decoder
            finally:
                self._policy.set_weights(own)

    @property
    def head(self) -> Any:
        """The model whose output head is the reference's; adapters never touch the head."""
        return self._policy.decoder if self._copy is None else self._copy

    def renew(self) -> None:
        """Make the policy as it stands the reference."""
        self.load_state(_snapshot(self._policy))

    def state(self) -> dict[str, Tensor] | None:
        """What a checkpoint must hold: the reference's weights once it was renewed, else None."""
        if not self.renewed:
            return None
        if self._copy is None:
            return self._adapters
        return {name: p.detach() for name, p in self._copy.named_parameters()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Set the reference's weights."""
        self.renewed = True
        if self._copy is None:
            self._adapters = state
            return
        for name, parameter in self._copy.named_parameters():
            parameter.data.copy_(state[name])


def final_logits(decoder: Any, hidden: Tensor) -> Tensor:
    """Logits from the last hidden states, [..., width] -> [..., vocabulary], as the model itself makes them."""
    logits: Tensor = decoder.get_output_embeddings()(hidden)
    cap = getattr(decoder.config, "final_logit_softcapping", None)
    return logits if cap is None else torch.tanh(logits / cap) * cap


def hidden_states(decoder: Any, ids: Tensor, mask: Tensor) -> Tensor:
    """The last hidden states, [rows, tokens, width], of right-padded rows."""
    hidden: Tensor = decoder.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    return hidden


@torch.no_grad()
def _head_is_plain(decoder: Any) -> bool:
    """Whether hidden states and `final_logits` give what the model's own forward gives."""
    ids = torch.arange(1, 5, device=decoder.device)[None]
    mask = torch.ones_like(ids)
    ours = final_logits(decoder, hidden_states(decoder, ids, mask))
    theirs = decoder(input_ids=ids, attention_mask=mask, use_cache=False).logits
    return torch.allclose(ours.float(), theirs.float(), atol=1e-3, rtol=1e-3)


def _load(kind: Any, source: Source, name: str, **options: Any) -> Any:
    """`from_pretrained`, with a user's mistake told apart from ours."""
    if source.gguf_file:
        options["gguf_file"] = source.gguf_file
    try:
        return kind.from_pretrained(source.path, **options)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot load model '{name}': {error}") from error


def _forget_quantization(model: Any) -> None:
    """A GGUF file was unpacked: its weights are plain now, and are saved as such."""
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config


def _with_adapters(model: Any, lora: LoraSettings) -> Any:
    """The model with fresh adapters, which change nothing until they are trained."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise UserError("model.lora needs peft: pip install 'scorl[lora]'") from None
    targets = lora.targets if isinstance(lora.targets, str) else list(lora.targets)
    if "lm_head" in targets:
        raise UserError("model.lora.targets: the output head cannot have an adapter; it is shared with the reference")
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        target_modules=targets,
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)  # fresh adapters change nothing, but the same run must start from the same ones
        return get_peft_model(model, config)


def _frozen(model: Any) -> Any:
    copied = copy.deepcopy(model).eval()
    return copied.requires_grad_(False)


def _snapshot(policy: Policy) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in policy.parameters.items()}
