"""The policy: a Hugging Face decoder, its tokenizer and chat, and what of it is trained."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from scorl.errors import UserError
from scorl.model.adapters import merge_weight, name_plainly, quantization, with_adapters
from scorl.model.chat import Chat
from scorl.model.context import max_positions
from scorl.model.dtype import choose_dtype, choose_onednn
from scorl.model.head import HeadKind, find_head
from scorl.model.layers import check_layers
from scorl.model.loading import count_parameters, load_config, load_hollow, load_model
from scorl.model.onednn import has_onednn, use_onednn
from scorl.settings import Dtype, LoraSettings, ModelSettings

__all__ = [
    "Place",
    "Policy",
    "freeze",
    "resolve_device",
    "warn_of_slow_matmuls",
]

Place = Literal["device", "host", "nowhere"]
Weights = Mapping[str, Tensor]


class Policy:
    """A causal language model that is sampled from and trained.

    Args:
        path: whatever `scorl.model.loading.resolve_model` understands.
        dtype: of the computation, or `auto`: `choose_dtype` says what that is. Weights that are trained stay in
            float32, frozen ones beside adapters are in it.
        device: `auto` takes a GPU where there is one.
        lora: train adapters instead of all weights.
        chat_template: see `ModelSettings.chat_template`.
        chat: the model's, where it is loaded already.
        frozen: parts of the names of weights that are not trained.
        onednn: whether linear layers multiply by oneDNN on a CPU; None: `choose_onednn` says where.
        weights: where they go: to the device, or no further than this host, or, of a rank that gets its shards from
            another one's, nowhere (torch's meta device).
    """

    placed: bool = True
    """Whether the weights are on the device."""
    head_kind: HeadKind = "linear"
    """How logits follow from the last hidden states."""

    def __init__(
        self,
        path: str,
        *,
        dtype: Dtype | Literal["auto"] = "auto",
        device: str = "auto",
        lora: LoraSettings | None = None,
        chat_template: str | None = None,
        chat: Chat | None = None,
        frozen: Sequence[str] = (),
        onednn: bool | None = None,
        weights: Place = "device",
    ) -> None:
        self.path = path
        self.placed = weights == "device"
        self.device = resolve_device(device)
        self.chat = chat or Chat.load(path, chat_template)
        self.tokenizer: Any = self.chat.tokenizer
        check_layers(load_config(path), path)
        count = cache(partial(count_parameters, path))
        dtype = choose_dtype(dtype, self.device, count)
        self.dtype: torch.dtype = getattr(torch, dtype)
        warn_of_slow_matmuls(self.device, self.dtype)
        held = self.dtype if lora else torch.float32
        if weights == "nowhere":
            model = load_hollow(path, held)
        else:
            model = load_model(path, held, **quantization(lora, self.dtype, self.device))
        self.lora = lora
        self.model: Any = (with_adapters(model, lora) if lora else freeze(model, frozen)).eval()
        half_on_cpu = self.device.type == "cpu" and dtype != "float32" and has_onednn()  # whose rows are to be filled
        if half_on_cpu or (dtype == "float32" and choose_onednn(onednn, dtype, self.device, count)):
            use_onednn(self.model)
        if self.placed:
            self.model.to(self.device)
        with self.precision() if lora else nullcontext():
            self.head_kind = _find_head(self.decoder, path, in_4bit=bool(lora and lora.load_in_4bit))

    @classmethod
    def of(cls, settings: ModelSettings, *, weights: Place = "device", chat: Chat | None = None) -> Policy:
        """The policy that a recipe's `model` section describes, with its chat, where that is loaded already."""
        return cls(
            settings.path,
            dtype=settings.dtype,
            device=settings.device,
            lora=settings.lora,
            chat=chat or Chat.of_model(settings),
            frozen=settings.frozen,
            onednn=settings.onednn,
            weights=weights,
        )

    @property
    def decoder(self) -> Any:
        """The Hugging Face model itself, adapters (if any) in place inside it."""
        return self.model.get_base_model() if self.lora else self.model

    def precision(self) -> torch.autocast:
        """The context that every forward runs in: half precision computes on float32 weights."""
        # Adapters cast by themselves; what is trained whole is in float32. Those of a folder bring that along.
        casts = not self.lora or bool(self.model.peft_config["default"].modules_to_save)
        return torch.autocast(self.device.type, self.dtype, enabled=casts and self.dtype != torch.float32)

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The trainable parameters by name."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    @property
    def max_positions(self) -> int | None:
        """The longest context in tokens, where the model names one."""
        return max_positions(self.decoder.config)

    @property
    def is_sharded(self) -> bool:
        """Whether this process holds no more than its shards of the weights, as it does unless they are gathered."""
        return any(hasattr(p, "placements") for p in self.model.parameters())

    @property
    def adapters_are_on(self) -> bool:
        """Whether there are adapters, and what is computed is with them."""
        return bool(self.lora) and not any(getattr(m, "_disable_adapters", False) for m in self.model.modules())

    def set_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Exchange the storage of trainable parameters, unseen by autograd; the tensors are taken, not copied."""
        parameters = self.parameters
        for name, value in weights.items():
            parameters[name].data = value

    def fingerprint(self) -> tuple[float, ...]:
        """Numbers that change when the weights do, or when adapters are switched off."""
        off = [float(self.adapters_are_on)] if self.lora else []
        with torch.no_grad():
            sums = [p.sum(dtype=torch.float32) for p in self.parameters.values()]
        return (*(torch.stack(sums).tolist() if sums else ()), *off)

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """All weights under their Hugging Face names, in the type that is computed in; adapters that are on are merged
        in. Tied weights come once.
        """
        for name, parameter in self.decoder.named_parameters():
            if plain := name_plainly(name, self.adapters_are_on):
                yield plain, merge_weight(self.decoder, name, parameter).to(self.dtype)

    def save(self, folder: Path, dtype: torch.dtype | None = None) -> None:
        """Write an ordinary Hugging Face folder; adapters are merged in.

        Args:
            folder: where to.
            dtype: of the weights in it; None: as they are held.
        """
        self.write(folder, self.export(dtype), dtype)

    @torch.no_grad()
    def export(
        self,
        dtype: torch.dtype | None = None,
        gather: Callable[[Tensor], Tensor] | None = None,
        copy: bool = False,
    ) -> Weights:
        """The state dict of a Hugging Face folder, in the host's memory; one weight at a time is merged and cast.

        Args:
            dtype: of the weights; None: as they are held.
            gather: makes a whole weight of a sharded one.
            copy: also what lies there as it is wanted, so that it stays as it is.
        """
        done: dict[int, Tensor] = {}
        held = self.decoder.state_dict(keep_vars=True)
        names = {name: plain for name in held if (plain := name_plainly(name, self.adapters_are_on))}
        for name in names:
            weight = held[name]
            if id(weight) not in done:  # tied weights go by two names
                merged = merge_weight(self.decoder, name, weight)
                whole = merged if gather is None else gather(merged)
                done[id(weight)] = whole.to("cpu", dtype if whole.is_floating_point() else None, copy=copy)
        return {plain: done[id(held[name])] for name, plain in names.items()}

    def write(self, folder: Path, weights: Weights, dtype: torch.dtype | None = None) -> None:
        """Write what `export` returned, with the model's configuration and the tokenizer."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.decoder.save_pretrained(folder, state_dict=dict(weights))
        if dtype is not None:
            config = copy.deepcopy(self.decoder.config)
            config.dtype = str(dtype).removeprefix("torch.")
            config.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        complete_folder(Path(folder), self.chat.end_ids)

    def save_adapters(self, folder: Path) -> None:
        """Write the adapters alone, as peft does."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # FSDP2 takes back what it has gathered where it is asked for a state dict
            weights = dict(self.model.named_parameters())
            # No embeddings beside their adapters: peft would ask the hub whether they have grown
            self.model.save_pretrained(folder, state_dict=weights, save_embedding_layers=False)


def freeze(model: Any, parts: Sequence[str]) -> Any:
    """The model with weights that are not trained: those with one of these parts in their names, `mlp.gate` say."""
    for part in parts:
        weights = [p for name, p in model.named_parameters() if f".{part}." in f".{name}."]
        if not weights:
            modules = [name.split(".")[:-1] for name, _ in model.named_parameters()]
            names = sorted({".".join(word for word in words[-2:] if not word.isdigit()) for words in modules})
            raise UserError(f"model.frozen: no weight's name has the part '{part}'; there are {', '.join(names)}")
        for p in weights:
            p.requires_grad_(False)
    if parts and not any(p.requires_grad for p in model.parameters()):
        raise UserError(f"model.frozen: {', '.join(parts)} are all weights, so nothing would be trained")
    return model


def complete_folder(folder: Path, end_ids: Collection[int]) -> None:
    """Have a saved model end its responses where it was trained to, and be readable by whoever reads the rest.

    Others know the ends from the generation config, which names none that the chat template alone writes.
    """
    from transformers import GenerationConfig

    path = folder / "generation_config.json"
    generation = GenerationConfig.from_pretrained(folder) if path.is_file() else GenerationConfig()
    listed = generation.eos_token_id
    if end_ids and set(end_ids) != set([listed] if isinstance(listed, int) else listed or ()):
        generation.eos_token_id = sorted(end_ids) if len(end_ids) > 1 else min(end_ids)
        generation.save_pretrained(folder)
    mode = (folder / "config.json").stat().st_mode  # safetensors writes files that their owner alone may read
    for weights in folder.glob("*.safetensors"):
        weights.chmod(mode)


def _find_head(decoder: Any, path: str, in_4bit: bool) -> HeadKind:
    """How logits come about; where they cannot be computed from hidden states, the model is refused."""
    if decoder.device.type == "meta":
        return "linear"
    try:
        kind = find_head(decoder)
    except (RuntimeError, AssertionError) as error:
        if not in_4bit:
            raise
        raise UserError(
            f"model.lora.load_in_4bit: bitsandbytes cannot multiply the layers of {path} on {decoder.device}: {error}"
        ) from error
    if kind is None:
        raise UserError(f"{path}: its logits do not follow from its last hidden states, so it cannot be trained")
    return kind


def resolve_device(name: str) -> torch.device:
    """A device by name: `auto` (a GPU where there is one), `cpu`, `cuda`, `cuda:1`.

    A GPU without a number is this process's current one: launchers set that, each in its own way.

    Raises:
        UserError: a GPU is asked for, and there is none.
    """
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"model.device: '{name}', but torch sees no GPU here")
    if name == "cuda" or (name == "auto" and torch.cuda.is_available()):
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu" if name == "auto" else name)


def warn_of_slow_matmuls(device: torch.device, dtype: torch.dtype) -> None:
    """Say that float32 leaves a GPU's tensor cores idle, unless torch was told to round for them."""
    if device.type == "cuda" and dtype == torch.float32 and torch.get_float32_matmul_precision() == "highest":
        warnings.warn(
            "model.dtype: float32 is multiplied outside of the GPU's tensor cores, some ten times slower than bfloat16",
            stacklevel=3,
        )
