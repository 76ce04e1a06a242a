"""The learner: executes credits, and knows no method."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from scorl.distributed.ranks import ALONE, Ranks
from scorl.engines.engine import Arithmetic
from scorl.learner import guards
from scorl.learner.attention import tree_attention
from scorl.learner.batch import MicroBatch, lay_out_rows, micro_batches, training_row
from scorl.learner.checkpointing import gradient_checkpointing
from scorl.learner.forward import logprobs_and_kl
from scorl.learner.head import Head, make_head
from scorl.learner.loss import loss
from scorl.learner.motion import Motion
from scorl.learner.parallel import as_float, choose_strategy
from scorl.learner.schedule import learning_rate
from scorl.learner.statistics import StepStatistics, StepSums
from scorl.learner.tree_check import check_tree_support
from scorl.model.liger import use_liger_kernel
from scorl.model.policy import Policy
from scorl.model.reference import Reference
from scorl.model.shards import local_shard, shard_like
from scorl.settings import LearnerSettings, Packing
from scorl.trajectory import TrainingExample

__all__ = ["Learner", "Progress"]


@dataclass(frozen=True)
class Progress:
    """What one update was like."""

    loss: float
    grad_norm: float
    """Before clipping."""
    learning_rate: float
    kl: dict[int, float]
    """By place in the conversation: the mean KL of the responses there to the reference, in nats; none where none was
    needed."""
    logprob_gap: float | None
    """Mean absolute difference between the sampler's log-probabilities and the learner's."""
    skipped: bool = False
    """The loss or a gradient was not finite, so the weights were left alone."""
    odd_gradients: Sequence[str] = ()
    """The first few tensors of those whose gradient was not."""


@dataclass(frozen=True)
class _Step:
    """What the micro-batches of a step have in common."""

    trajectories: int
    head: Head
    reference: Head
    sums: StepSums


class Learner:
    """The policy, its reference and the optimiser's state.

    Args:
        policy: learns in place.
        settings: optimiser, KL and batching.
        total: updates in the whole run, for the schedule.
        temperature: of sampling; log-probabilities are taken at it.
        ranks: who learns together, each from examples of its own.
        parallel: whether each of them keeps all weights or a shard.
    """

    def __init__(
        self,
        policy: Policy,
        settings: LearnerSettings,
        *,
        total: int,
        temperature: float = 1.0,
        ranks: Ranks = ALONE,
        parallel: Literal["ddp", "fsdp2"] = "ddp",
    ) -> None:
        guards.check_trainable(policy.parameters)
        self.ranks = ranks
        self.policy, self.settings, self.total, self.temperature = policy, settings, total, temperature
        self.updates = 0
        self.adaptive: Mapping[str, float] = {}
        """Settings of the objective that have moved since its stage began; the loop's, kept here for checkpoints."""
        if settings.use_liger_kernel is True:
            use_liger_kernel(policy)
        self.reference = Reference(policy, sharded=parallel == "fsdp2" and ranks.size > 1)
        self.strategy = choose_strategy(parallel, policy, self.reference, ranks, settings.sync_each_batch)
        if ranks.any(self.reference.follows_trained_adapters(), "whether the adapters were trained before"):
            self.reference.reset()
        self.reference.seal()
        self.reset_optimizer()
        self._skips = 0
        """Which of the last updates were skipped, a bit each, the newest the lowest."""
        self.motion = Motion(policy.parameters, ranks)
        self.reference_from = 0
        """Updates before the reference was set."""
        self._at_reference = True
        """No update has been applied since the policy was the reference."""
        self._together = 0
        """Updates with a gradient since then, or since the last step whose KL was not exactly 0."""
        self._unreached = False
        """The last step had credits and no gradient."""
        self.packing: Packing | None = None

    def reset_reference(self) -> None:
        """Make the policy as it stands the reference."""
        self.reference.reset()
        self.reference_from, self._at_reference, self._together = self.updates, True, 0

    def reset_optimizer(self) -> None:
        """Forget the optimiser's moments."""
        kind = torch.optim.Adam if self.settings.optim == "adam" else torch.optim.AdamW
        decay = self.settings.weight_decay if self.settings.optim == "adamw" else 0.0
        parameters = list(self.policy.parameters.values())
        betas = (self.settings.adam_beta1, self.settings.adam_beta2)
        self.optimizer = kind(parameters, lr=self.settings.learning_rate, betas=betas, weight_decay=decay, fused=True)

    def update(self, examples: Sequence[TrainingExample], arithmetic: Arithmetic = "same") -> Progress:
        """One update of the policy from the examples of one step: this rank's share of them.

        Args:
            examples: of the step.
            arithmetic: of the engine that wrote them.

        Raises:
            GuardError: see `scorl.learner.guards`.
        """
        parameters = self.policy.parameters
        guards.check_fresh(parameters.values())
        guards.check_optimizer(self.optimizer, parameters)
        guards.check_history(examples)
        guards.check_credits(examples)
        if self.packing is None:
            self.packing = self._choose_packing(examples)
        lr = learning_rate(self.updates, self.total, self.settings)
        statistics = self.accumulate_gradients(examples)
        grad_norm = self._clip_gradients()
        self._check_step(statistics, grad_norm, arithmetic)
        applied = guards.is_finite(statistics.loss, grad_norm)  # both are sums over ranks: all of them decide alike
        odd = () if applied else self._find_odd_gradients()
        if applied:
            self._apply_gradients(lr, grad_norm)
        guards.check_reference_kept(self.reference.has_moved())
        self._skips = (self._skips << 1 | (not applied)) & (1 << guards.SKIP_WINDOW) - 1
        guards.check_skips(self._skips, statistics.loss, grad_norm, odd)
        self.optimizer.zero_grad(set_to_none=True)
        self.updates += 1
        return Progress(statistics.loss, grad_norm, lr, statistics.kl, statistics.gap, not applied, odd)

    def unsharded(self, reference: bool = False) -> AbstractContextManager[None]:
        """Within, this rank runs the policy (and the reference in its place) without the others, as engines do."""
        return self.strategy.unsharded(reference)

    def state(self) -> dict[str, Any]:
        """All that a checkpoint needs to resume bit-for-bit."""
        return {
            "updates": self.updates,
            "adaptive": dict(self.adaptive),
            "weights": {name: p.detach() for name, p in self.policy.parameters.items()},
            "optimizer": self.optimizer.state_dict(),
            "reference": self.reference.state(),
            "nonfinite": self._skips,
            "moved": self.motion.proven,
            "together": self._together,
            "reference_from": self.reference_from,
            "at_reference": self._at_reference,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Resume from what `state` returned; older ones lack `together` and `reference_from`."""
        parameters = self.policy.parameters
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(shard_like(parameter, state["weights"][name]))
        moments = state["optimizer"]["state"]
        shards = {
            i: {name: shard_like(parameter, value) for name, value in moments[i].items()}
            for i, parameter in enumerate(parameters.values())
            if i in moments
        }
        self.optimizer.load_state_dict(state["optimizer"] | {"state": shards})
        if state["reference"] is not None:
            self.reference.load_state({name: shard_like(parameters[name], w) for name, w in state["reference"].items()})
        self.updates, self.adaptive, self._skips = state["updates"], state["adaptive"], state["nonfinite"]
        self._at_reference, self.motion.proven, self.motion.turn = state["at_reference"], state["moved"], None
        self._together, self.reference_from = (state.get(name, 0) for name in ("together", "reference_from"))

    def _choose_packing(self, examples: Sequence[TrainingExample]) -> Packing | None:
        """The packing that was asked for, unless this model cannot do it; None: no rank has a row to try it with."""
        if (wanted := self.settings.packing) == "padded":
            return wanted
        with self.unsharded():
            objection = check_tree_support(self.policy, examples, wanted)
        # One rank's objection counts for all: they compute a step in the same way, whatever rows they got.
        reason = next((why for why in self.ranks.all_gather(objection, "the trial of trees") if why), None)
        if reason is None:
            return wanted if self.ranks.any(any(map(training_row, examples)), "whether trees were tried") else None
        warnings.warn(f"learner.packing: the model learns from padded rows, since with {wanted} {reason}", stacklevel=3)
        return "padded"

    def accumulate_gradients(self, examples: Sequence[TrainingExample]) -> StepStatistics:
        """Leave the gradients of a whole step in the parameters, summed over the ranks; `update` applies them."""
        packing = self.packing or self.settings.packing
        # N of the reduction is the whole step's: every chunk's loss is divided by it, so it must be known beforehand.
        trajectories = sum(self.ranks.all_gather(len(examples), "the trajectories of a step"))
        batches = micro_batches(examples, self.settings.tokens_per_microbatch, packing)
        dummy, _ = lay_out_rows([(0,)], packing)
        step = self._begin_step(trajectories)
        backward = partial(self._backward, step=step)
        trees = tree_attention(self.policy.decoder, self.reference.head) if packing != "padded" else nullcontext()
        layers = gradient_checkpointing(self.policy.decoder) if self.settings.gradient_checkpointing else nullcontext()
        with trees, layers:
            self.strategy.accumulate_gradients(batches, backward, dummy.to(self.policy.device), step.head)
        return step.sums.gather(self.ranks, batches, self.strategy.complete)

    def _begin_step(self, trajectories: int) -> _Step:
        head, kind = make_head(self.policy.decoder, self.policy.dtype, self.policy.head_kind), self.policy.head_kind
        shared = self.reference.head is self.policy.decoder
        reference = head if shared else make_head(self.reference.head, self.policy.dtype, kind)
        return _Step(trajectories, head, reference, StepSums(trajectories, self.settings.importance_sampling_cap))

    def _backward(self, batch: MicroBatch, run_reference: bool, step: _Step) -> None:
        """Add a micro-batch's gradients; `run_reference` may be for the sake of another rank's micro-batch alone.

        The head goes chunk by chunk, forward and backward, so that no more than a chunk's logits ever exist. The
        gradients add up at the last hidden states, which are cut off from the layers for that; one backward pass then
        takes the sum through the layers.
        """
        device = self.policy.device
        layout, ref_hidden = batch.layout.to(device), None
        # Autocast keeps its casts until it ends, by parameter; the reference may put other numbers into the policy's.
        if run_reference:
            with self.policy.precision(), torch.no_grad(), self.reference.active() as model:
                ref_hidden = self.strategy.hidden_states(model, layout)
        with self.policy.precision():
            output = self.strategy.hidden_states(self.policy.decoder, layout)
        hidden = output.detach().requires_grad_()
        reference = step.reference if batch.needs_reference else None
        for host_chunk in batch.chunks(step.head.block()):
            chunk = host_chunk.to(device)
            logprobs, kl = logprobs_and_kl(
                step.head, reference, chunk, hidden, ref_hidden, self.temperature, self.settings
            )
            logprobs.retain_grad()  # a guard looks at it
            share = loss(chunk, logprobs, kl, step.trajectories, self.settings)
            share.backward()  # type: ignore[no-untyped-call]
            step.sums.add(chunk, host_chunk, share, logprobs, kl)
        if output.requires_grad:  # not if the head alone is trained
            output.backward(hidden.grad)  # type: ignore[no-untyped-call]

    def _clip_gradients(self) -> float:
        """Clip the gradient as a whole, unless it is not finite, which would spoil all of it; its norm before."""
        parameters = list(self.policy.parameters.values())
        norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
        if math.isfinite(number := as_float(norm)):
            clip_grads_with_norm_(parameters, self.settings.max_grad_norm or math.inf, norm)
        return number

    def _check_step(self, statistics: StepStatistics, grad_norm: float, arithmetic: Arithmetic) -> None:
        """What a step's statistics must be like; they are sums over the ranks, so all of them stop alike."""
        dtype = self.policy.dtype
        guards.check_placed(statistics.misplaced)
        if statistics.odd:  # or else it is noticed behind the update
            guards.check_reference_kept(self.reference.has_moved())
        guards.check_finite(statistics.odd)
        guards.check_agreement(statistics.agreement, arithmetic, dtype, self.settings.max_logprob_gap)
        if self._at_reference:
            guards.check_at_reference(statistics.kl)
        if any(statistics.kl.values()):
            self._together = 0
        guards.check_apart(statistics.kl, dtype, self._together)
        guards.check_direction(statistics.pull)
        proven, before = self.motion.proven, self._unreached
        self._unreached = guards.check_reach(statistics.pull, grad_norm, dtype, proven, before)

    def _apply_gradients(self, lr: float, grad_norm: float) -> None:
        """Let the optimiser change the weights."""
        self.motion.step(self.optimizer, lr, grad_norm)
        self._at_reference = False
        self._together += guards.parts(lr, grad_norm)

    def _find_odd_gradients(self) -> list[str]:
        """The first few of the tensors whose gradient is not finite; a collective."""
        gradients = {name: local_shard(p.grad) for name, p in self.policy.parameters.items() if p.grad is not None}
        odd = [name for name, gradient in gradients.items() if not bool(gradient.isfinite().all())]
        several = self.ranks.all_concat(odd, "whose gradients are not finite")
        return list(dict.fromkeys(several))[: guards.NAMED]
