"""The optimiser's steps, and whether the weights follow them: all in the first one, a piece of a tensor later."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from scorl.distributed.ranks import Ranks
from scorl.errors import GuardError
from scorl.learner.guards import GRADIENT_FLOOR
from scorl.model.shards import local_shard

__all__ = ["Motion", "WeightChange", "check_moved", "check_reached", "compare_weights"]

PIECE = 4096
"""Elements of a tensor that are looked at in a later update."""
NOTHING = 1e-30
"""A step that is smaller shows nowhere: Adam's own underflows."""
ASTRAY = 0.05
"""Share of a step by which an element may miss it; kernels that round differently come to 1e-4."""
LAYER = re.compile(r"(.*?)\.(\d+)\.")
"""Of a parameter's name: the stack of layers, and which of them."""


class Motion:
    """The steps of an optimiser, which are seen to move the weights.

    Args:
        parameters: that it moves.
        ranks: among which they may lie in shards.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], ranks: Ranks) -> None:
        self.parameters, self.ranks = parameters, ranks
        self.proven = False
        """Whether a first update was seen to move every tensor, and down the gradient; checkpoints keep it."""
        self.turn: int | None = None
        """Which tensor is looked at next; None: all of them, as in the first update of a process."""

    def step(self, optimizer: torch.optim.Optimizer, lr: float, grad_norm: float) -> None:
        """Let the optimiser change the weights, and see that it does."""
        for group in optimizer.param_groups:
            group["lr"] = lr
        if not self.proven and lr > 0 and grad_norm > GRADIENT_FLOOR:
            self._prove(optimizer, lr, grad_norm)
            self.proven = True
            return
        pieces = self._take_pieces() if self.proven else []
        optimizer.step()
        check_moving(pieces, optimizer, lr, grad_norm)

    def _prove(self, optimizer: torch.optim.Optimizer, lr: float, grad_norm: float) -> None:
        """Let the optimiser change one tensor after the other, and see that all of them move, and down the gradient.

        In turn, for a copy of all weights may not fit. A rank may see no change in its shards.
        """
        trained = {name: p for name, p in self.parameters.items() if p.grad is not None}
        gradients = {name: p.grad for name, p in trained.items() if p.grad is not None}
        reached = [name for name, grad in gradients.items() if bool(local_shard(grad).any())]
        check_reached(self.parameters, self.ranks.all_concat(reached, "which weights have a gradient"))
        changes = []
        for p in trained.values():
            p.grad = None
        for name, p in trained.items():
            p.grad, before = gradients[name], local_shard(p).clone()
            optimizer.step()  # leaves alone what has no gradient
            changes.append(compare_weights(name, before, local_shard(p), local_shard(gradients[name]), lr))
            p.grad = None
        for name, p in trained.items():
            p.grad = gradients[name]
        check_moved(self.ranks.all_concat(changes, "whether the weights moved"), grad_norm, lr)
        self.turn = 0

    def _take_pieces(self) -> list[Piece]:
        """Pieces of the tensors whose turn it is, before the step."""
        named = list(self.parameters.items())
        looked_at = named if self.turn is None else [named[self.turn % len(named)]]
        self.turn = (self.turn or 0) + 1
        return [Piece.of(name, p) for name, p in looked_at if p.grad is not None and local_shard(p).numel()]


@dataclass(frozen=True)
class Piece:
    """A piece of a tensor of weights as it was before an update."""

    name: str
    parameter: nn.Parameter
    places: Tensor
    """Among the elements that lie on this rank."""
    before: Tensor

    @classmethod
    def of(cls, name: str, parameter: nn.Parameter) -> Piece:
        """That from the element of the largest gradient on: most rows of an embedding have none."""
        assert parameter.grad is not None
        first = local_shard(parameter.grad).reshape(-1).abs().argmax()
        weights = local_shard(parameter).reshape(-1)
        # Places on the device, and not a slice: to know where it begins the host would have to wait.
        places = (first + torch.arange(min(PIECE, len(weights)), device=weights.device)).clamp(max=len(weights) - 1)
        return cls(name, parameter, places, weights[places])

    def went_astray(self, optimizer: torch.optim.Optimizer) -> Tensor:
        """1 where an element moved otherwise than by its moments, 2 where none moved at all besides, else 0.

        Next to its size a step may round by some distances to the next number.
        """
        group, kept = optimizer.param_groups[0], optimizer.state.get(self.parameter, {})
        after = local_shard(self.parameter).reshape(-1)[self.places]
        step: Tensor = group["lr"] * (self._adam(group, kept) + group["weight_decay"] * self.before)
        missed = (self.before - after - step).abs()
        rounding = 4 * torch.finfo(after.dtype).eps * self.before.abs() + NOTHING
        astray = (missed > ASTRAY * step.abs() + rounding).any()
        return astray * (1 + (after == self.before).all().int())

    def _adam(self, group: Mapping[str, Any], kept: Mapping[str, Any]) -> Tensor:
        """Adam's step at a learning rate of 1, from the moments; without any, that of a first update."""
        if "exp_avg" not in kept:
            assert self.parameter.grad is not None
            grad = local_shard(self.parameter.grad).reshape(-1)[self.places]
            return grad.sign() * (grad.abs() > GRADIENT_FLOOR)
        mean, square = (local_shard(kept[name]).reshape(-1)[self.places] for name in ("exp_avg", "exp_avg_sq"))
        # By logarithms, since 1 - beta^n loses its digits where beta is near 1.
        logs = (math.log(beta) if beta else -math.inf for beta in group["betas"])
        bias1, bias2 = (-torch.expm1(log * kept["step"].to(mean.device)) for log in logs)
        step: Tensor = mean / bias1 / ((square / bias2).sqrt() + group["eps"])
        return step


def check_moving(pieces: Sequence[Piece], optimizer: torch.optim.Optimizer, lr: float, grad_norm: float) -> None:
    """Catches an optimiser that no longer moves the weights, or by other steps than Adam's moments and the learning
    rate say; in the first update of a process all tensors, later in turn.
    """
    if not pieces:
        return
    looks = torch.stack([piece.went_astray(optimizer) for piece in pieces]).tolist()
    astray = [(piece.name, look) for piece, look in zip(pieces, looks, strict=True) if look >= 1]
    if astray:
        name, look = astray[0]
        what = "did not change" if look > 1 else "changed by other steps than Adam's moments and the learning rate say"
        raise GuardError(
            f"{len(astray)} of {len(pieces)} trainable tensors that were looked at, {name} first, {what} in an update "
            f"with gradient norm {grad_norm:.2e} and learning rate {lr:.1e}: has the optimiser stopped working, or "
            "does somebody else write to the weights or to its settings?"
        )


def check_reached(trained: Iterable[str], reached: Iterable[str]) -> None:
    """Catches layers that the gradient does not reach: single ones of a stack, or all stacks; in the first update.

    A tensor may rightly have none: of an expert that no token is sent to, or lora_A as long as lora_B is 0. A stack
    too, which reads another modality.

    Args:
        trained: names of tensors.
        reached: of them those whose gradient is not 0.
    """
    stacks: defaultdict[str, dict[str, bool]] = defaultdict(dict)
    found = set(reached)
    for name in trained:
        if layer := LAYER.match(name):
            stack, number = layer.groups()
            stacks[stack][number] = stacks[stack].get(number, False) or name in found
    some = any(any(layers.values()) for layers in stacks.values())
    lost = [
        f"{stack}.{number}"
        for stack, layers in stacks.items()
        for number, is_reached in layers.items()
        if not is_reached and (any(layers.values()) or not some)
    ]
    if found and lost:
        raise GuardError(
            f"the gradient does not reach {len(lost)} of the layers that are trained, {lost[0]} first: are they cut "
            "off from the loss, or their adapters scaled by 0?"
        )


@dataclass(frozen=True)
class WeightChange:
    """What an update did to a tensor of weights, or to a shard of it."""

    name: str
    moved: bool
    due: bool
    """Some element has a gradient, and room for a step of the learning rate; or it moved."""
    descent: float
    """How much the loss falls by it, to first order."""


def compare_weights(name: str, before: Tensor, after: Tensor, grad: Tensor, lr: float) -> WeightChange:
    """What an update did to a tensor; `before` is used up, since a copy more would be dear where memory is short.

    Adam's first step is the learning rate, whatever the gradient. Next to a weight of size 1, float32 takes none below
    6e-8, where a warm-up may begin; so an element must change where the step is four times as large.
    """
    moved = not torch.equal(before, after)
    if not moved:
        due = (grad.abs() > GRADIENT_FLOOR) & (after.abs() < lr / (2 * torch.finfo(after.dtype).eps))
        return WeightChange(name, moved, due=bool(due.any()), descent=0.0)
    fall = before.sub_(after).reshape(-1).dot(grad.reshape(-1))
    return WeightChange(name, moved, due=True, descent=float(fall))


def check_moved(changes: Sequence[WeightChange], grad_norm: float, lr: float) -> None:
    """Catches weights that an update does not move, and one that goes up: of the first update that has a gradient.

    Every tensor that is due must move, and the loss must fall to first order.
    """
    moved = {change.name for change in changes if change.moved}
    stuck = sorted({change.name for change in changes if change.due} - moved)
    update = f"an update with gradient norm {grad_norm:.2e} and learning rate {lr:.1e}"
    if lr > 0 and (stuck or not moved):
        which = f"{len(stuck)} of the trainable tensors, {stuck[0]} first," if moved else "the weights"
        raise GuardError(
            f"{which} did not change in {update}: too small a step for the weights' dtype, or the optimiser leaves "
            "them out"
        )
    if sum(change.descent for change in changes) < 0:
        raise GuardError(f"{update} raised the loss to first order: does the optimiser maximise?")
