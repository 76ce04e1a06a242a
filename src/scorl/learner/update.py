"""The learner: executes credits, and knows no method."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from scorl.errors import GuardError
from scorl.learner.attention import tree_attention
from scorl.learner.batch import MicroBatch, micro_batches
from scorl.learner.checkpointing import checkpointed
from scorl.learner.forward import at_once, score, states
from scorl.learner.guards import (
    GRADIENT_FLOOR,
    check_gap,
    check_moved,
    check_reference,
    check_trainable,
    is_finite,
)
from scorl.learner.loss import loss
from scorl.learner.schedule import learning_rate
from scorl.learner.trial import why_not_trees
from scorl.policy import Policy
from scorl.reference import Reference
from scorl.settings import LearnerSettings, Packing
from scorl.trajectory import Lesson

__all__ = ["Learner", "Progress"]


@dataclass(frozen=True)
class Progress:
    """What one update was like."""

    loss: float
    grad_norm: float
    """Before clipping."""
    lr: float
    kl: dict[int, float]
    """By turn: the mean over attempts of their KL to the reference, in nats; empty where no KL was needed."""
    logprob_gap: float | None
    """Mean absolute difference between the sampler's log-probabilities and the learner's."""
    skipped: bool = False
    """The loss or a gradient was not finite, so the weights were left alone."""


class Learner:
    """The policy, its reference and the optimiser's state.

    Args:
        policy: learns in place.
        settings: optimiser, KL and batching.
        total: updates in the whole run, for the schedule.
        temperature: of sampling; log-probabilities are taken at it.
    """

    def __init__(self, policy: Policy, settings: LearnerSettings, *, total: int, temperature: float = 1.0) -> None:
        check_trainable(policy.parameters)
        self.policy, self.settings, self.total, self.temperature = policy, settings, total, temperature
        self.updates = 0
        self.beta_2: float | None = None
        """Stage I's strict coefficient where it adapts; None: as the stage says."""
        self.reference = Reference(policy)
        self.reset_optimizer()
        self._nonfinite = 0
        self._moved = False
        self._at_reference = True
        self.packing: Packing | None = None

    def renew_reference(self) -> None:
        """Make the policy as it stands the reference."""
        self.reference.renew()
        self._at_reference = True

    def reset_optimizer(self) -> None:
        """Forget the optimiser's moments."""
        kind = torch.optim.Adam if self.settings.optimizer == "adam" else torch.optim.AdamW
        decay = self.settings.weight_decay if self.settings.optimizer == "adamw" else 0.0
        parameters = list(self.policy.parameters.values())
        self.optimizer = kind(
            parameters, lr=self.settings.lr, betas=self.settings.betas, weight_decay=decay, fused=True
        )

    def update(self, lessons: Sequence[Lesson]) -> Progress:
        """One update of the policy from the lessons of one step.

        Raises:
            GuardError: see `scorl.learner.guards`.
        """
        if self.packing is None:
            self.packing = self._choose_packing(lessons)
        lr = learning_rate(self.updates, self.total, self.settings)
        tally = self._accumulate(lessons)
        check_gap(tally.gap, self.settings.max_logprob_gap)
        if self._at_reference:
            check_reference(list(tally.kl.values()))
        grad_norm = self._clip()
        applied = is_finite(tally.loss, grad_norm)
        if applied:
            self._step(lr, grad_norm)
        self._nonfinite = 0 if applied else self._nonfinite + 1
        if self._nonfinite == 2:
            raise GuardError(f"loss {tally.loss} and gradient norm {grad_norm} were not finite twice in a row")
        self.optimizer.zero_grad(set_to_none=True)
        self.updates += 1
        return Progress(tally.loss, grad_norm, lr, tally.kl, tally.gap, skipped=not applied)

    def state(self) -> dict[str, Any]:
        """All that a checkpoint needs to go on to the bit."""
        return {
            "updates": self.updates,
            "beta_2": self.beta_2,
            "weights": {name: p.detach() for name, p in self.policy.parameters.items()},
            "optimizer": self.optimizer.state_dict(),
            "reference": self.reference.state(),
            "nonfinite": self._nonfinite,
            "moved": self._moved,
            "at_reference": self._at_reference,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        with torch.no_grad():
            for name, parameter in self.policy.parameters.items():
                parameter.copy_(state["weights"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        if state["reference"] is not None:
            self.reference.load_state(state["reference"])
        self.updates, self.beta_2 = state["updates"], state["beta_2"]
        self._nonfinite, self._moved = state["nonfinite"], state["moved"]
        self._at_reference = state["at_reference"]

    def _choose_packing(self, lessons: Sequence[Lesson]) -> Packing:
        """The packing that was asked for, unless this model cannot do it."""
        if self.settings.packing == "rows":
            return "rows"
        reason = why_not_trees(self.policy, lessons)
        if reason is None:
            return "tree"
        warnings.warn(f"learner.packing: this model learns from plain rows, since on trees {reason}", stacklevel=3)
        return "rows"

    def _accumulate(self, lessons: Sequence[Lesson]) -> _Tally:
        """Gradients of the whole step, one micro-batch after the other."""
        tally = _Tally()
        packing = self.packing or self.settings.packing
        trees = tree_attention(self.policy.decoder, self.reference.head) if packing == "tree" else nullcontext()
        layers = checkpointed(self.policy.decoder) if self.settings.checkpointing else nullcontext()
        with trees, layers:
            for batch in micro_batches(lessons, self.settings.tokens_per_batch, packing):
                self._learn(batch.to(self.policy.device), len(lessons), tally)
        return tally

    def _learn(self, batch: MicroBatch, trajectories: int, tally: _Tally) -> None:
        """Gradients of a micro-batch.

        The head goes piece by piece, forward and backward, so that no more than a piece's logits ever exist; what it
        asks of the hidden states is then propagated through the layers in one pass.
        """
        reference = self.reference if bool((batch.beta > 0).any()) else None
        theirs = None
        with self.policy.precision():
            if reference is not None:
                with torch.no_grad(), reference.active() as model:
                    theirs = states(model, batch.layout)
            hidden = states(self.policy.decoder, batch.layout)
        mine = hidden.detach().requires_grad_()
        for piece in batch.pieces(at_once(self.policy.decoder)):
            with self.policy.precision():
                logprobs, kl = score(self.policy, reference, piece, mine, theirs, self.temperature, self.settings)
            share = loss(piece, logprobs, kl, trajectories, self.settings)
            share.backward()  # type: ignore[no-untyped-call]
            tally.add(piece, share, logprobs, kl)
        if hidden.requires_grad:  # not if the head alone is trained
            hidden.backward(mine.grad)  # type: ignore[no-untyped-call]

    def _clip(self) -> float:
        limit = self.settings.clip or float("inf")
        return float(torch.nn.utils.clip_grad_norm_(self.policy.parameters.values(), limit))

    def _step(self, lr: float, grad_norm: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        proof = not self._moved and grad_norm > GRADIENT_FLOOR
        before = [p.detach().clone() for p in self.policy.parameters.values()] if proof else None
        self.optimizer.step()
        self._at_reference = False
        if before is not None:
            after = self.policy.parameters.values()
            self._moved = any(not torch.equal(old, new) for old, new in zip(before, after, strict=True))
            check_moved(self._moved, grad_norm, lr)


@dataclass
class _Tally:
    """Sums over micro-batches."""

    loss: float = 0.0
    kl_sums: dict[int, float] = field(default_factory=dict)
    attempts: dict[int, int] = field(default_factory=dict)
    gap_sum: float = 0.0
    tokens: int = 0

    def add(self, batch: MicroBatch, share: Tensor, logprobs: Tensor, kl: Tensor | None) -> None:
        self.loss += float(share.detach())
        sampled = (batch.imitation == 0)[batch.attempt]
        self.gap_sum += float((logprobs.detach() - batch.sampled)[sampled].abs().double().sum())
        self.tokens += int(sampled.sum())
        if kl is None:
            return
        turns = batch.turn[batch.attempt]
        for turn in sorted(set(batch.turn.tolist())):
            self.kl_sums[turn] = self.kl_sums.get(turn, 0.0) + float(kl.detach()[turns == turn].double().sum())
            self.attempts[turn] = self.attempts.get(turn, 0) + int((batch.turn == turn).sum())

    @property
    def kl(self) -> dict[int, float]:
        return {turn: total / self.attempts[turn] for turn, total in sorted(self.kl_sums.items())}

    @property
    def gap(self) -> float | None:
        return self.gap_sum / self.tokens if self.tokens else None
