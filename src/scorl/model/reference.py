"""The reference policy, to which the KL is measured."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from scorl.model.checksums import checksums
from scorl.model.policy import Policy
from scorl.model.shards import gather, is_sharded, local_shard, shard_like

__all__ = ["Reference"]


class Reference:
    """The policy to which the KL is measured; it changes only by `reset`.

    Full fine-tuning keeps a frozen copy of the model, whose linear layers are in the type that is computed in. With
    adapters the reference is the model without them, which costs no memory, until `reset` keeps a copy of the adapters'
    weights as they stand.

    Args:
        policy: as it starts.
        sharded: whether the copy is going to be divided over ranks, which wants one type for all of it.
    """

    def __init__(self, policy: Policy, sharded: bool = False) -> None:
        self._policy = policy
        self._copy = None if policy.lora else _frozen(policy, {} if sharded else _halves(policy))
        self._adapters: dict[str, Tensor] | None = None
        """Whole on every rank also where the policy's are sharded: ranks run the reference without each other."""
        self.was_reset = False

    def follows_trained_adapters(self) -> bool:
        """Whether adapters were trained before, so that the model without them is another policy; of this rank's part.

        Then the reference must be `reset` before it is used.
        """
        adapters = (p for name, p in self._policy.parameters.items() if "lora_B" in name)
        return self._policy.lora is not None and any(bool(local_shard(p).any()) for p in adapters)

    @contextmanager
    def active(self) -> Iterator[Any]:
        """The Hugging Face model of the reference; the policy's own weights are back in place afterwards."""
        if self._copy is not None:
            yield self._copy
        elif self._adapters is None:
            with self._policy.model.disable_adapter():
                yield self._policy.decoder
        else:
            with self._swap_weights(self._adapters):
                yield self._policy.decoder

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Put the reference's weights in the policy's place, for an engine that samples from the policy."""
        if self._copy is None:
            with self.active():
                yield
        else:
            with self._swap_weights({name: p.data for name, p in self._named_like_policy()}):
                yield

    @contextmanager
    def _swap_weights(self, weights: dict[str, Tensor]) -> Iterator[None]:
        """Other weights in the policy; its own are back in place afterwards.

        What FSDP2 gathers, it gathers from the storage of the shards, so they are overwritten in place.
        """
        shards = {name: p for name, p in self._policy.parameters.items() if is_sharded(p)}
        kept = {name: local_shard(p).clone() for name, p in shards.items()}
        own = {name: p.data for name, p in self._policy.parameters.items() if name not in shards}
        for name, p in shards.items():
            local_shard(p).copy_(local_shard(shard_like(p, weights[name])))
        self._policy.set_weights({name: weights[name] for name in own})
        try:
            yield
        finally:
            for name, p in shards.items():
                local_shard(p).copy_(kept[name])
            self._policy.set_weights(own)

    @property
    def head(self) -> Any:
        """The model whose output head is the reference's; adapters never touch the head."""
        return self._policy.decoder if self._copy is None else self._copy

    def seal(self) -> None:
        """Note the bits of its weights as they lie here; again where they come to lie elsewhere, as in shards."""
        self._sealed = checksums(self._weights())

    def has_moved(self) -> bool:
        """Whether the weights are others than when it was set; reads all of them."""
        return bool((checksums(self._weights()) != self._sealed).any())

    def _weights(self) -> Iterator[Tensor]:
        """All weights that the reference computes with and the policy does not learn."""
        if self._copy is not None:
            yield from self._copy.parameters()
            return
        yield from (p for p in self._policy.model.parameters() if not p.requires_grad)
        yield from (self._adapters or {}).values()

    def reset(self) -> None:
        """Make the policy as it stands the reference."""
        self.load_state(_snapshot(self._policy))

    def state(self) -> dict[str, Tensor] | None:
        """What a checkpoint must hold: the reference's weights once it was reset, else None."""
        if not self.was_reset:
            return None
        if self._copy is None:
            parameters = self._policy.parameters
            return {name: shard_like(parameters[name], whole) for name, whole in (self._adapters or {}).items()}
        return {name: p.detach() for name, p in self._named_like_policy()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Set the reference's weights; of sharded adapters a collective."""
        self.was_reset = True
        if self._copy is None:
            self._adapters = {name: gather(weights).to(self._policy.device) for name, weights in state.items()}
        else:
            for name, parameter in self._named_like_policy():
                parameter.data.copy_(state[name])
            head, words = self._copy.get_output_embeddings().weight, self._copy.get_input_embeddings().weight
            if head is not words and _shares_words(self._policy.decoder):
                head.data.copy_(words)
        self.seal()

    def _named_like_policy(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The copy's parameters that the policy learns, but for a head of its own that it shares with its embedding."""
        assert self._copy is not None
        names = self._policy.parameters.keys()
        return ((name, p) for name, p in self._copy.named_parameters() if name in names)


def _frozen(policy: Policy, halves: dict[int, Any]) -> Any:
    """A copy of the model, without numbers where it is still to be divided; it gets its shards with the policy.

    `halves` are what some of its parameters are copied to, by their ids.
    """
    if not policy.placed:
        halves = {id(p): _freeze(p.detach().to("meta")) for p in policy.model.parameters()}
    model = copy.deepcopy(policy.model, dict(halves)).eval().requires_grad_(False)
    head = model.get_output_embeddings()
    if policy.placed and halves and _shares_words(model):
        head.weight = _freeze(head.weight.to(policy.dtype))
    return model


def _halves(policy: Policy) -> dict[int, Any]:
    """The linear layers' parameters in half precision, where autocast casts them in every pass: the same bits.

    Embeddings and norms are not cast then, and stay.
    """
    if policy.dtype == torch.float32 or not policy.placed:
        return {}
    words = policy.decoder.get_input_embeddings().weight
    linear = {p for m in policy.model.modules() if isinstance(m, nn.Linear) for p in m.parameters(recurse=False)}
    return {id(p): _freeze(p.detach().to(policy.dtype)) for p in linear if p is not words}


def _shares_words(model: Any) -> bool:
    """Whether the head is the embedding; what a configuration says of that need not be so."""
    return model.get_output_embeddings().weight is model.get_input_embeddings().weight


def _freeze(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)


def _snapshot(policy: Policy) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in policy.parameters.items()}
