"""How weights and gradients are divided among ranks: whole on each (DDP), or in shards (FSDP2)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor
from transformers.modeling_layers import GradientCheckpointingLayer

from scorl.distributed.ranks import Ranks
from scorl.errors import GuardError, UserError
from scorl.learner.batch import MicroBatch, Rows, layout_of
from scorl.learner.forward import states
from scorl.learner.tree import Tree
from scorl.model.policy import Policy, final_logits

__all__ = ["Division", "Replicated", "Sharded", "divided", "local", "number"]

Learn = Callable[[MicroBatch, bool], None]
"""Adds a micro-batch's gradients, given whether the reference has to be run."""


class Division(Protocol):
    """What the learner asks for; in all of it the ranks act together."""

    in_shards: ClassVar[bool]
    """Whether a rank holds shares of the weights alone."""

    def accumulate(self, batches: Sequence[MicroBatch], learn: Learn, idle: Rows | Tree) -> None:
        """Learn from this rank's micro-batches, and make the gradients the sums over the ranks.

        Args:
            batches: as many as this rank has.
            learn: the gradients of one, added up.
            idle: what is run to keep ranks company that have more.
        """
        ...

    def states(self, decoder: Any, layout: Rows | Tree) -> Tensor:
        """See `scorl.learner.forward.states`."""
        ...

    def whole(self, reference: bool) -> AbstractContextManager[None]:
        """The policy's weights (and the reference's) whole on each rank, so that each runs it as it likes."""
        ...

    def save(self, folder: Path) -> None:
        """Let rank 0 write an ordinary Hugging Face folder."""
        ...


@dataclass(frozen=True)
class Replicated:
    """Whole weights on each rank, and one sum of all gradients when a step's passes are done.

    That is DDP without its overlap: its hooks sum in the last backward pass of a step, and which one is the last, a
    rank does not know of the others; and our forward is not the module's own.
    """

    policy: Policy
    ranks: Ranks
    in_shards: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self._check_same("do all of them read the same model?")

    def _check_same(self, cause: str) -> None:
        if (
            self.ranks.size > 1
            and len(set(self.ranks.all_gather(self.policy.fingerprint(), "everybody's weights"))) > 1
        ):
            raise GuardError(f"the ranks hold different weights: {cause}")

    def accumulate(self, batches: Sequence[MicroBatch], learn: Learn, idle: Rows | Tree) -> None:
        """See `Division`; where no rank has anything to learn, no gradient comes into being."""
        for batch in batches:
            learn(batch, batch.anchored)
        if self.ranks.size == 1 or not self.ranks.any(bool(batches), "whether there is anything to learn"):
            return
        parameters = list(self.policy.parameters.values())
        for p in parameters:
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        self.ranks.all_reduce([p.grad for p in parameters if p.grad is not None], "the sum of gradients")

    def states(self, decoder: Any, layout: Rows | Tree) -> Tensor:
        """See `Division`."""
        return states(decoder, layout)

    def whole(self, reference: bool) -> AbstractContextManager[None]:
        """See `Division`."""
        return nullcontext()

    def save(self, folder: Path) -> None:
        """See `Division`; the weights are checked to be everybody's."""
        self._check_same("do they run on different machines or versions?")
        if self.ranks.main:
            self.policy.save(folder)


class Sharded:
    """A share of each weight, its gradient and its moments on each rank, by FSDP2; the reference likewise.

    A layer's weights are gathered for its forward and backward pass, those outside the layers (embeddings, norm,
    head) for a whole pass of the model; gradients are summed into shards after each pass. So all ranks make as many
    passes as the one that has most, the others idle ones without a gradient.
    """

    in_shards: ClassVar[bool] = True

    def __init__(self, policy: Policy, reference: Any, ranks: Ranks) -> None:
        self._policy, self._reference, self._ranks = policy, reference, ranks
        for decoder in (reference, policy.decoder):
            _shard(decoder, policy, ranks)
            with torch.no_grad(), policy.precision():  # the first pass settles which module is the outermost
                self.states(decoder, layout_of([(0,)], "padded")[0].to(policy.device))
            decoder.reset_iter_state()

    def accumulate(self, batches: Sequence[MicroBatch], learn: Learn, idle: Rows | Tree) -> None:
        """See `Division`; FSDP2 sums the gradients as it goes."""
        asked = self._ranks.all_gather([batch.anchored for batch in batches], "the number of passes")
        for number in range(max(map(len, asked))):
            anchored = any(number < len(theirs) and theirs[number] for theirs in asked)
            if number < len(batches):
                learn(batches[number], anchored)
            else:
                self._keep_company(idle, anchored)
        self._reference.reset_iter_state()  # its head was still wanted after its forward pass, and no backward follows

    def _keep_company(self, layout: Rows | Tree, anchored: bool) -> None:
        """A pass that calls for the same messages as one from which something is learned; its gradients are 0."""
        with self._policy.precision():
            if anchored:
                with torch.no_grad():
                    self.states(self._reference, layout)
            logits = final_logits(self._policy.decoder, self.states(self._policy.decoder, layout))
        (0 * logits.float()).sum().backward()  # type: ignore[no-untyped-call]

    def states(self, decoder: Any, layout: Rows | Tree) -> Tensor:
        """See `Division`."""
        with self._ranks.collective("the weights of the layers"):
            found: Tensor = decoder.states(layout)
        return found

    @contextmanager
    def whole(self, reference: bool) -> Iterator[None]:
        """See `Division`; in the type that is computed in."""
        decoders = [self._policy.decoder, *([self._reference] if reference else [])]
        try:
            with self._ranks.collective("the whole weights"):
                for decoder in decoders:
                    for module in _fsdp_modules(decoder):
                        module.set_reshard_after_forward(False, recurse=False)
                        module.unshard()
            yield
        finally:
            for decoder in decoders:
                for module in _fsdp_modules(decoder):
                    module.set_reshard_after_forward(module is not decoder, recurse=False)
                decoder.reset_iter_state()  # in shards again, and forgotten which layers ran: ranks ran different ones

    def save(self, folder: Path) -> None:
        """See `Division`; each weight is gathered in turn, and rank 0 holds all of them in its own memory."""
        whole: dict[int, Tensor] = {}
        names = self._policy.decoder.state_dict(keep_vars=True)
        with self._ranks.collective("the weights to be saved"):
            for weight in names.values():
                if id(weight) not in whole:  # tied weights go by two names
                    full = weight.detach().full_tensor() if hasattr(weight, "full_tensor") else weight.detach()
                    whole[id(weight)] = full.cpu() if self._ranks.main else full.new_empty(0)
        if self._ranks.main:
            self._policy.save(folder, {name: whole[id(weight)] for name, weight in names.items()})


def divided(kind: Literal["ddp", "fsdp2"], policy: Policy, reference: Any, ranks: Ranks) -> Division:
    """The division that a recipe names; one process alone keeps everything.

    Args:
        kind: as in `launcher.parallel`.
        policy: learns.
        reference: the frozen model beside it.
        ranks: who shares.
    """
    return Sharded(policy, reference, ranks) if kind == "fsdp2" and ranks.size > 1 else Replicated(policy, ranks)


def local(tensor: Tensor) -> Tensor:
    """What of a tensor lies on this rank: of a shard its part, else all of it."""
    part: Tensor = tensor.detach()
    return part.to_local() if hasattr(part, "to_local") else part


def number(value: Tensor) -> float:
    """A number, which shards may make up together."""
    return float(value.full_tensor() if hasattr(value, "full_tensor") else value)


def like(owner: Tensor, value: Tensor) -> Tensor:
    """A whole tensor as its owner is: this rank's share of it, if the owner is in shards; no message is sent."""
    if not hasattr(owner, "placements") or hasattr(value, "placements") or value.shape != owner.shape:
        return value
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(owner, DTensor)
    return distribute_tensor(value.to(owner.device), owner.device_mesh, owner.placements, src_data_rank=None)


def _shard(decoder: Any, policy: Policy, ranks: Ranks) -> None:
    """Leave this rank its share of a model's weights, on the device; layer by layer, so never the whole there."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    if not hasattr(FSDPModule, "reset_iter_state"):
        raise UserError(f"launcher.parallel: fsdp2 needs torch 2.13 or newer, and this is {torch.__version__}")
    half = policy.dtype != torch.float32
    how: dict[str, Any] = {
        "mesh": init_device_mesh(policy.device.type, (ranks.size,)),
        "mp_policy": MixedPrecisionPolicy(policy.dtype, torch.float32) if half else MixedPrecisionPolicy(),
    }
    for layer in [module for module in decoder.modules() if isinstance(module, GradientCheckpointingLayer)]:
        fully_shard(layer, **how)
    fully_shard(decoder, **how, reshard_after_forward=False)
    for module in _fsdp_modules(decoder):
        module.set_gradient_divide_factor(1.0)  # the loss has its 1/N; sums are wanted, not means
        module.set_force_sum_reduction_for_comms(True)  # gloo knows no other
    decoder.states = lambda layout: states(decoder, layout).clone()  # FSDP2 hooks itself to it, and wants no view
    register_fsdp_forward_method(decoder, "states")


def _fsdp_modules(decoder: Any) -> list[Any]:
    from torch.distributed.fsdp import FSDPModule

    return [module for module in decoder.modules() if isinstance(module, FSDPModule)]
