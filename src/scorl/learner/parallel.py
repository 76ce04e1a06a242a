"""How ranks share weights, gradients and moments: everything on each of them (DDP), or in shards (FSDP2)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor

from scorl.distributed.ranks import Ranks
from scorl.errors import GuardError, UserError
from scorl.learner.batch import MicroBatch, MicroBatches, PaddedRows, lay_out_rows
from scorl.learner.forward import hidden_states
from scorl.learner.head import Head
from scorl.learner.sharding import fsdp_modules, shard_models
from scorl.learner.tree import Tree
from scorl.model.policy import Policy
from scorl.model.reference import Reference
from scorl.model.shards import gather, shard_like

__all__ = ["DDP", "FSDP2", "ParallelStrategy", "as_float", "choose_strategy"]

Backward = Callable[[MicroBatch, bool], None]
"""Adds a micro-batch's gradients to the parameters', given whether the reference has to be run."""


class ParallelStrategy(Protocol):
    """What the learner asks of one; every method is a collective, which all ranks call together."""

    sharded: ClassVar[bool]
    """Whether a rank holds shards of the weights, and no more."""
    complete: ClassVar[bool]
    """Whether all micro-batches are run; a plan runs the largest alone."""

    def accumulate_gradients(
        self, batches: MicroBatches, backward: Backward, dummy: PaddedRows | Tree, head: Head
    ) -> None:
        """Run this rank's micro-batches and leave in every gradient the sum over the ranks.

        Args:
            batches: of this rank; the others may have more or fewer.
            backward: adds one micro-batch's gradients.
            dummy: what a rank runs while others still have micro-batches, to match their collectives.
            head: the policy's, which keeps gradients of its own.
        """
        ...

    def hidden_states(self, decoder: Any, layout: PaddedRows | Tree) -> Tensor:
        """The last hidden states of all tokens, [tokens, width]; see `scorl.learner.forward`."""
        ...

    def unsharded(self, reference: bool) -> AbstractContextManager[None]:
        """Within, each rank has all of the policy's weights (and the reference's) and runs them without the others."""
        ...

    def export(self, dtype: torch.dtype | None, copy: bool) -> Mapping[str, Tensor]:
        """What a Hugging Face folder holds, on rank 0; see `Policy.export`."""
        ...


@dataclass(frozen=True)
class DDP:
    """All weights on each rank; gradients are summed once, after a step's last backward pass.

    Torch's DistributedDataParallel sums in hooks of the last backward pass, to overlap with it. Here no rank knows
    which of its passes is the last for all, and the forward is not the module's own, so the sum is explicit.
    """

    policy: Policy
    ranks: Ranks
    sharded: ClassVar[bool] = False
    complete: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self._check_weights("do all of them read the same model?")

    def _check_weights(self, cause: str) -> None:
        """Compare the ranks' weights by their sums; what differs once would never be noticed otherwise."""
        if self.ranks.size == 1:
            return
        if len(set(self.ranks.all_gather(self.policy.fingerprint(), "everybody's weights"))) > 1:
            raise GuardError(f"the ranks hold different weights: {cause}")

    def accumulate_gradients(
        self, batches: MicroBatches, backward: Backward, dummy: PaddedRows | Tree, head: Head
    ) -> None:
        """See `ParallelStrategy`; where no rank has a micro-batch, gradients stay None."""
        for batch in batches:
            backward(batch, batch.needs_reference)
        for name, parameter in head.parameters().items():
            if name in head.gradients:
                _add_gradient(parameter, head.gradients.pop(name))
        if self.ranks.size == 1 or not self.ranks.any(bool(batches), "whether there is anything to learn"):
            return
        parameters = list(self.policy.parameters.values())
        for p in parameters:  # a rank without a micro-batch must bring as many numbers into the sum as the others
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        self.ranks.all_reduce([p.grad for p in parameters if p.grad is not None], "the sum of gradients")

    def hidden_states(self, decoder: Any, layout: PaddedRows | Tree) -> Tensor:
        """See `ParallelStrategy`."""
        return hidden_states(decoder, layout)

    def unsharded(self, reference: bool) -> AbstractContextManager[None]:
        """See `ParallelStrategy`."""
        return nullcontext()

    def export(self, dtype: torch.dtype | None, copy: bool) -> Mapping[str, Tensor]:
        """See `ParallelStrategy`; the weights are checked to be everybody's."""
        self._check_weights("do they run on different machines or versions?")
        return self.policy.export(dtype, copy=copy) if self.ranks.main else {}


class FSDP2:
    """A shard of each weight, its gradient and its moments on each rank (`fully_shard`); the reference likewise.

    A layer's weights are all-gathered for its forward and its backward pass, those outside the layers (embeddings,
    norm, head) for a whole pass of the model; gradients are reduce-scattered after each backward pass. A collective
    that one rank calls and another does not hangs both, so all ranks make as many passes as the one that has most.
    """

    sharded: ClassVar[bool] = True
    complete: ClassVar[bool] = True

    def __init__(self, policy: Policy, reference: Reference, ranks: Ranks, sync_each_batch: bool = True) -> None:
        if policy.head_kind != "linear":
            raise UserError("launcher.parallel: fsdp2 needs a linear output head, which this model has not; use ddp")
        self._policy, self._reference, self._ranks = policy, reference, ranks
        # A reference that is the policy's own resets FSDP2 between passes, which would drop what is not summed yet.
        self._sync_each_batch = sync_each_batch or reference.head is policy.decoder
        shard_models(policy, reference.head, ranks)
        for decoder in self._decoders(reference=True):
            # FSDP2 takes the first of its modules that runs for the root, which must be the decoder. An engine runs
            # the model inside it, and would make the first layer the root; so the decoder runs once before.
            with torch.no_grad(), policy.precision():
                self.hidden_states(decoder, lay_out_rows([(0,)], "padded")[0].to(policy.device))
            decoder.reset_iter_state()

    def _decoders(self, reference: bool) -> list[Any]:
        """The models that are divided; adapters have no reference but the policy's own."""
        own, other = self._policy.decoder, self._reference.head
        return [own, other] if reference and other is not own else [own]

    def accumulate_gradients(
        self, batches: MicroBatches, backward: Backward, dummy: PaddedRows | Tree, head: Head
    ) -> None:
        """See `ParallelStrategy`; FSDP2 sums the gradients as it goes, but for the head's."""
        needs = self._ranks.all_gather(batches.needs_reference, "the number of passes")
        passes = max(map(len, needs))
        for index in range(passes):
            self._policy.decoder.set_requires_gradient_sync(self._sync_each_batch or index == passes - 1)
            needs_reference = any(index < len(rank) and rank[index] for rank in needs)
            if index < len(batches):
                backward(batches[index], needs_reference)
            else:
                self._run_dummy(dummy, needs_reference)
        for decoder in self._decoders(reference=True)[1:]:
            decoder.reset_iter_state()  # its head was still gathered after its forward pass; no backward follows
        if not any(needs):
            return
        for name, parameter in head.parameters().items():
            gradient = head.gradients.pop(name, None)
            whole = torch.zeros(parameter.shape, device=self._policy.device) if gradient is None else gradient
            self._ranks.all_reduce([whole], "the sum of the head's gradients")
            _add_gradient(parameter, shard_like(parameter, whole))

    def _run_dummy(self, layout: PaddedRows | Tree, needs_reference: bool) -> None:
        """A forward and backward pass that matches the collectives of a micro-batch; its gradients are 0."""
        if needs_reference:  # others gather its shards from here
            with self._policy.precision(), torch.no_grad(), self._reference.active() as model:
                self.hidden_states(model, layout)
        with self._policy.precision():
            hidden = self.hidden_states(self._policy.decoder, layout)
        (0 * hidden.float()).sum().backward()  # type: ignore[no-untyped-call]

    def hidden_states(self, decoder: Any, layout: PaddedRows | Tree) -> Tensor:
        """See `ParallelStrategy`."""
        with self._ranks.collective("the weights of the layers"):
            hidden: Tensor = decoder.hidden_states(layout)
        if decoder is self._reference.head is self._policy.decoder and not torch.is_grad_enabled():
            decoder.reset_iter_state()  # as if it had not run: the policy's pass is next, maybe with other adapters
        return hidden

    @contextmanager
    def unsharded(self, reference: bool) -> Iterator[None]:
        """See `ParallelStrategy`; the weights are in the type that is computed in."""
        decoders = self._decoders(reference)
        try:
            with self._ranks.collective("the whole weights"):
                for decoder in decoders:
                    for module in fsdp_modules(decoder):
                        module.set_reshard_after_forward(False, recurse=False)
                        module.unshard()
            yield
        finally:
            for decoder in decoders:
                for module in fsdp_modules(decoder):
                    module.set_reshard_after_forward(module is not decoder, recurse=False)
                # Reshards, and forgets the order in which layers ran, by which FSDP2 prefetches: it differs by rank.
                decoder.reset_iter_state()

    def export(self, dtype: torch.dtype | None, copy: bool) -> Mapping[str, Tensor]:
        """See `ParallelStrategy`; weights are gathered one by one, and rank 0 holds all of them in host memory."""

        def gather_to_main(weight: Tensor) -> Tensor:
            whole = gather(weight)
            return whole if self._ranks.main else whole.new_empty(0)

        with self._ranks.collective("the weights to be saved"):
            return self._policy.export(dtype, gather_to_main, copy)


def choose_strategy(
    kind: Literal["ddp", "fsdp2"], policy: Policy, reference: Reference, ranks: Ranks, sync_each_batch: bool
) -> ParallelStrategy:
    """The strategy that a recipe names; a single process shards nothing.

    Args:
        kind: as in `launcher.parallel`.
        policy: learns.
        reference: what it is held to.
        ranks: who learns together.
        sync_each_batch: as in `learner.sync_each_batch`.
    """
    return (
        FSDP2(policy, reference, ranks, sync_each_batch) if kind == "fsdp2" and ranks.size > 1 else DDP(policy, ranks)
    )


def as_float(scalar: Tensor) -> float:
    """A scalar as a number; of a sharded one the sum of its parts, which is a collective."""
    return float(scalar.full_tensor() if hasattr(scalar, "full_tensor") else scalar)


def _add_gradient(parameter: Tensor, gradient: Tensor) -> None:
    parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
