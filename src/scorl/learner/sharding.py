"""Models divided over the ranks (`fully_shard`), layer by layer, so that none of them is ever whole on a device.

The policy's weights are rank 0's, wherever they lie there; nobody else has to have read them. The reference starts as
the policy, and gets its shards with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from scorl.distributed.ranks import Ranks
from scorl.errors import GuardError, UserError
from scorl.learner.forward import hidden_states
from scorl.model.policy import Policy

__all__ = ["fsdp_modules", "shard_models"]

Weights = Mapping[str, tuple[torch.Size, torch.dtype]]


def shard_models(policy: Policy, reference: Any, ranks: Ranks) -> None:
    """Leave this rank its shards of the policy and of the reference, on the device; a collective.

    Args:
        policy: its weights, and what is on the meta device of them, become shards of rank 0's.
        reference: the policy's decoder itself, or a copy of it, with or without numbers.
        ranks: who share them.

    Raises:
        UserError: this torch is too old.
        GuardError: the ranks have different models.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    if not hasattr(FSDPModule, "reset_iter_state"):
        raise UserError(f"launcher.parallel: fsdp2 needs torch 2.13 or newer, and this is {torch.__version__}")
    decoders = [policy.decoder] if reference is policy.decoder else [policy.decoder, reference]
    half = policy.dtype != torch.float32 and not policy.lora  # beside adapters the frozen weights have the type already
    how: dict[str, Any] = {
        "mesh": init_device_mesh(policy.device.type, (ranks.size,)),
        "mp_policy": MixedPrecisionPolicy(policy.dtype, torch.float32) if half else MixedPrecisionPolicy(),
    }
    weights = _describe(policy.decoder, ranks)
    names = {id(module): f"{name}." if name else "" for name, module in policy.decoder.named_modules()}
    for units in zip(*map(_layers, decoders), strict=True):
        _fill(units, names[id(units[0])], weights, policy.device, ranks)
        for unit in units:
            fully_shard(unit, **how)
    _fill(decoders, "", weights, policy.device, ranks)
    for decoder in decoders:
        # The head is used after the decoder's forward, on hidden states alone: it must not be resharded by then.
        fully_shard(decoder, **how, reshard_after_forward=False)
        for module in fsdp_modules(decoder):
            module.set_gradient_divide_factor(1.0)  # the loss has its 1/N; sums are wanted, not means
            module.set_force_sum_reduction_for_comms(True)  # gloo knows no other
        # FSDP2's hooks want no view
        decoder.hidden_states = lambda layout, decoder=decoder: hidden_states(decoder, layout).clone()
        register_fsdp_forward_method(decoder, "hidden_states")


def fsdp_modules(decoder: Any) -> list[Any]:
    """The modules of a model that are gathered as one."""
    from torch.distributed.fsdp import FSDPModule

    return [module for module in decoder.modules() if isinstance(module, FSDPModule)]


def _layers(decoder: Any) -> list[nn.Module]:
    return [module for module in decoder.modules() if isinstance(module, GradientCheckpointingLayer)]


def _describe(decoder: Any, ranks: Ranks) -> Weights:
    """Shape and type of rank 0's weights and buffers, by name, which must be everybody's names and shapes."""
    own = {name: (tensor.shape, tensor.dtype) for name, tensor in _tensors(decoder).items()}
    weights = ranks.broadcast(lambda: own, "the shapes of the weights")
    shapes = {name: shape for name, (shape, _) in weights.items()}
    if ranks.any(shapes != {name: shape for name, (shape, _) in own.items()}, "whether the models are one"):
        raise GuardError("the ranks have different models: do all of them read the same one?")
    return weights


def _tensors(module: Any) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _fill(units: Any, prefix: str, weights: Weights, device: torch.device, ranks: Ranks) -> None:
    """Put rank 0's numbers into what is not sharded yet of a layer, or of the model; the others' are the first's."""
    policy = units[0]
    places = [_places(unit) for unit in units]
    for name, tensor in _tensors(policy).items():
        if hasattr(tensor, "placements") or name not in places[0]:
            continue
        shape, dtype = weights[prefix + name]
        whole = tensor.detach().to(device) if ranks.main else torch.empty(shape, dtype=dtype, device=device)
        _broadcast(whole, ranks)
        _set(places[0][name], whole)
        for own in places[1:]:
            copy = own[name][0][0]._parameters.get(own[name][0][1])
            _set(own[name], whole.to(copy.dtype) if copy is not None else whole.clone())


def _places(unit: Any) -> dict[str, list[tuple[nn.Module, str]]]:
    """Where each weight and buffer hangs, by its first name: tied ones hang in several places."""
    names: dict[int, str] = {}
    places: dict[str, list[tuple[nn.Module, str]]] = {}
    for path, module in unit.named_modules():
        for key, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                name = names.setdefault(id(tensor), f"{path}.{key}" if path else key)
                places.setdefault(name, []).append((module, key))
    return places


def _set(places: list[tuple[nn.Module, str]], value: Tensor) -> None:
    """Hang a tensor in the place of another."""
    module, key = places[0]
    if key in module._parameters:
        value = nn.Parameter(value, requires_grad=module._parameters[key].requires_grad)  # type: ignore[union-attr]
    for module, key in places:
        (module._parameters if key in module._parameters else module._buffers)[key] = value  # type: ignore[assignment]


def _broadcast(tensor: Tensor, ranks: Ranks) -> None:
    """Have rank 0's numbers, as bytes: not every backend knows every type."""
    with ranks.collective("the weights of rank 0"):
        torch.distributed.broadcast(tensor.reshape(-1).view(torch.uint8), src=0)
