"""Low-rank adapters (peft): where they go, and the plain weights that a model with them amounts to."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from scorl.errors import UserError, nearest
from scorl.model.pickles import tensors_alone
from scorl.settings import LoraSettings
from scorl.text_files import as_path

__all__ = ["adapters_are_plain", "merge_weight", "name_plainly", "quantization", "with_adapters"]

ROUTERS = r".*\.(router|gate)"
"""What chooses experts; in Llama 4 it is a linear layer of several results, to which no adapter can be added."""
FUSED = r".*\.(out_proj|conv1d)"
"""What the fused kernels of Mamba layers read around an adapter, so that peft refuses to put one there."""
MAMBA = {"falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h"}
"""The types of models in which peft refuses that."""


def with_adapters(model: Any, lora: LoraSettings) -> Any:
    """The model with adapters: fresh ones, which change nothing until they are trained, or those of a folder.

    Raises:
        UserError: peft is not installed, or adapters cannot be put there.
    """
    try:
        from peft import PeftModel, get_peft_model
    except ImportError:
        raise UserError("model.lora needs peft: pip install 'scorl[lora]'") from None
    if lora.adapter is None:
        _check_names(model, lora)
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)  # peft asks transformers for it
        warnings.filterwarnings("ignore", "The following (rank|alpha)_pattern keys", RuntimeWarning)  # peft's own
        torch.manual_seed(0)  # fresh adapters change nothing, but the same run must start from the same ones
        try:
            if lora.adapter is not None:
                with tensors_alone(lora.adapter):
                    adapted = PeftModel.from_pretrained(model, _adapter_folder(lora), is_trainable=True)
            else:
                adapted = get_peft_model(model, _config(model, lora))
        except (ValueError, TypeError, AttributeError, LookupError, OSError, RuntimeError, re.error) as error:
            key = "adapter" if lora.adapter else "target_modules"
            raise UserError(f"model.lora.{key}: {error}") from None
    _check_output(adapted.get_base_model())
    _say_what_stays(adapted)
    for parameter in adapted.parameters():
        if parameter.requires_grad:  # peft makes that of its own, not of modules_to_save
            parameter.data = parameter.data.float()
    return adapted


def adapters_are_plain(policy: Any) -> bool:
    """Whether adapters are all that is trained, of linear layers alone, and their base model is as it was loaded."""
    if not policy.lora or policy.lora.load_in_4bit or policy.lora.adapter:
        return False
    config = policy.model.peft_config["default"]  # to which peft itself adds the experts of some models
    return not (config.modules_to_save or config.target_parameters)


def _config(model: Any, lora: LoraSettings) -> Any:
    from peft import LoraConfig

    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.lora_alpha,
        target_modules=_targets(lora),
        exclude_modules=_excluded(model, lora),
        target_parameters=list(lora.target_parameters) or None,
        modules_to_save=list(lora.modules_to_save) or None,
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
    )


def _check_names(model: Any, lora: LoraSettings) -> None:
    """Refuse names that nothing has: peft is silent about them where others match."""
    targets = _targets(lora)
    modules, weights = ([name for name, _ in named] for named in (model.named_modules(), model.named_parameters()))
    wanted = {
        "target_modules": ([] if isinstance(targets, str) else targets, modules),
        "target_parameters": (lora.target_parameters, weights),
        "modules_to_save": (lora.modules_to_save, modules),
    }
    for key, (names, there) in wanted.items():
        for name in names:
            if not any(f".{other}".endswith(f".{name}") for other in there):
                known = sorted({other.rpartition(".")[2] for other in there} - {""})
                raise UserError(f"model.lora.{key}: {name} is nowhere in this model: {nearest(name, known)}")


def quantization(lora: LoraSettings | None, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """What `from_pretrained` is told so that frozen weights are held in four bits (QLoRA, arXiv 2305.14314).

    Raises:
        UserError: bitsandbytes is not installed.
    """
    if lora is None or not lora.load_in_4bit:
        return {}
    from transformers import BitsAndBytesConfig

    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        raise UserError("model.lora.load_in_4bit needs bitsandbytes: pip install 'scorl[qlora]'") from None
    return {
        "device_map": {"": device},
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        ),
    }


def name_plainly(name: str, adapters_are_on: bool) -> str | None:
    """The name that a weight has in the model without adapters; None: it is none of that model's.

    >>> name_plainly("layers.0.q_proj.base_layer.weight", True)
    'layers.0.q_proj.weight'
    >>> name_plainly("norm.original_module.weight", True)
    """
    off, on = ".original_module.", ".modules_to_save.default."
    if ".lora_" in name or (off if adapters_are_on else on) in name:
        return None
    name = name.replace(on if adapters_are_on else off, ".")
    return ".".join(part for part in name.split(".") if part != "base_layer")


def merge_weight(decoder: Any, name: str, weight: Tensor) -> Tensor:
    """A weight of the decoder with the adapters that are on, in its own type, or in that which is computed in."""
    merged = _dequantized(weight)
    owner, _, parameter = name.rpartition(".")
    while owner.endswith(".base_layer"):  # the experts of a layer are wrapped once for each of their tensors
        owner = owner.removesuffix(".base_layer")
        layer = decoder.get_submodule(owner)
        if getattr(layer, "parameter_name", "weight") == parameter and not layer.disable_adapters:
            for adapter in layer.active_adapters:
                merged = merged + layer.get_delta_weight(adapter).detach()
    return merged.to(weight.dtype) if weight.is_floating_point() else merged


def _dequantized(weight: Tensor) -> Tensor:
    state = getattr(weight, "quant_state", None)
    if state is None:
        return weight.detach()
    from bitsandbytes.functional import dequantize_4bit

    plain: Tensor = dequantize_4bit(weight.detach(), state)
    return plain


def _targets(lora: LoraSettings) -> str | list[str]:
    """As peft takes them: a text is one name, or several with commas, unless it is a pattern."""
    wanted = lora.target_modules
    if not isinstance(wanted, str):
        return list(wanted)
    names = [name.strip() for name in wanted.split(",")]
    is_pattern = wanted == "all-linear" or not all(re.fullmatch(r"[\w.]+", name) for name in names)
    return wanted if is_pattern else names


def _excluded(model: Any, lora: LoraSettings) -> str | None:
    """What `all-linear` does not mean; who names layers gets them."""
    if lora.target_modules != "all-linear":
        return None
    pattern = f"{ROUTERS}|{FUSED}" if model.config.get_text_config().model_type in MAMBA else ROUTERS
    found = any(re.fullmatch(pattern, name) for name, _ in model.named_modules())
    return pattern if found else None


def _adapter_folder(lora: LoraSettings) -> str:
    """Where the adapters lie that are trained on.

    Raises:
        UserError: there are none, or of a kind whose weights could not be saved merged.
    """
    from peft import PeftConfig

    name = str(lora.adapter)
    path = as_path(name)
    if path.exists() and not (path / "adapter_config.json").is_file():
        raise UserError(f"model.lora.adapter: {name} has no adapter_config.json, so it is no folder that peft wrote")
    if lora.target_modules != "all-linear" or lora.target_parameters or lora.modules_to_save:
        raise UserError("model.lora.adapter: brings targets of its own, so leave out those that model.lora names")
    config = PeftConfig.from_pretrained(str(path) if path.exists() else name)
    odd = [key for key in ("use_dora", "lora_bias", "trainable_token_indices") if getattr(config, key, None)]
    if config.peft_type != "LORA" or odd or getattr(config, "bias", "none") != "none":
        raise UserError(
            f"model.lora.adapter: {name} is {config.peft_type}{''.join(f', {key}' for key in odd)}, bias "
            f"{getattr(config, 'bias', 'none')}; only plain LoRA is trained on. model.path={name} trains from it merged"
        )
    return str(path) if path.exists() else name


def _check_output(decoder: Any) -> None:
    """Refuse adapters where policy and reference share what is computed without them."""
    head, words = decoder.get_output_embeddings(), decoder.get_input_embeddings()
    for key, mark in (("target_modules", "lora_A"), ("modules_to_save", "modules_to_save")):
        tied = hasattr(words, mark) and head.weight is words.weight
        if hasattr(head, mark) or tied:
            raise UserError(
                f"model.lora.{key} reach the output head, which the reference shares; leave it out, or train all"
            )


def _say_what_stays(adapted: Any) -> None:
    """Say that experts stay as they are, most of the model; they are no linear layers, so peft knows some alone."""
    experts = list(_expert_parameters(adapted.get_base_model()))
    if experts:
        total = sum(p.numel() for p in adapted.get_base_model().parameters())
        share = sum(p.numel() for _, p in experts) / total
        names = sorted({name.split(".layers.")[-1].partition(".")[2] for name, _ in experts})
        warnings.warn(
            f"model.lora: the experts, {share:.0%} of the weights, get no adapters and stay as they are; "
            f"model.lora.target_parameters=[{', '.join(names)}] adapts them too",
            stacklevel=4,
        )


def _expert_parameters(decoder: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Weights that are stacked over experts, [experts, ...], and have no adapter."""
    stacked = ((name, p) for name, p in decoder.named_parameters() if p.dim() == 3 and "experts" in name)
    return ((name, p) for name, p in stacked if ".base_layer." not in name)
