"""A block of predictions: log-probabilities and KL of its logits, and the loss's gradient by them.

    d loss / d logits = c (1[target] - p) + g p (log p - log p_ref - KL)

where c and g are the loss's gradients by the target's log-probability and by the exact KL; `scorl.learner.loss` gives
them. The sampled estimators of the KL are made of the target's log-probabilities, and end up in c.

A vocabulary of 150,000 words makes this a matter of memory traffic. On a CPU the logits turn into their own gradient in
place. On CUDA torch.compile fuses the same formulas into passes that read the products in half precision: a third of
the time of one kernel an operation (docs/speed.md).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

__all__ = ["BLOCKS", "BLOCK_BYTES", "FusedBlock", "HeadBlock", "Logits", "block_size", "compute_block"]

BLOCK_BYTES = {"cpu": 64 << 20, "cuda": 1 << 30}
"""Of the logits of a block; with a reference there are as many of its own, and as many of gradients."""
RECOMPILES = 100
"""Vocabularies, temperatures and kinds of blocks that a process can compile."""


class Logits(NamedTuple):
    """What a head makes of hidden states."""

    product: Tensor
    """[predictions, vocabulary]."""
    softcap: float | None
    """What a tanh holds them below."""
    temperature: float
    """They are divided by it last; not 0."""


class HeadBlock(Protocol):
    """What is known of some predictions."""

    @property
    def chosen(self) -> Tensor:
        """The log-probability of each target."""
        ...

    @property
    def ref_chosen(self) -> Tensor | None:
        """The reference's."""
        ...

    @property
    def kl(self) -> Tensor | None:
        """The exact KL to the reference, where it is wanted."""
        ...

    def logit_gradient(self, target: Tensor, c: Tensor, g: Tensor | None) -> Tensor:
        """The loss's gradient by the products, [predictions, vocabulary]; the block may be used up.

        Args:
            target: the tokens.
            c: the gradient by each target's log-probability.
            g: by each exact KL.
        """
        ...


Compute = Callable[[Logits, Logits | None, Tensor, bool], HeadBlock]
"""See `compute_block`."""


def block_size(device: torch.device, dtype: torch.dtype, vocabulary: int) -> int:
    """How many predictions make a block; where it is not fused its logits are in float32."""
    size = 4 if _block_of(device) == InPlaceBlock.of else dtype.itemsize
    return max(1, BLOCK_BYTES.get(device.type, BLOCK_BYTES["cpu"]) // (size * vocabulary))


def compute_block(policy: Logits, reference: Logits | None, target: Tensor, exact_kl: bool) -> HeadBlock:
    """Log-probabilities and KL.

    Args:
        policy: whose gradient may be asked for.
        reference: None: nothing of it is wanted.
        target: the tokens, [predictions].
        exact_kl: whether the KL over the vocabulary is wanted.
    """
    return _block_of(policy.product.device)(policy, reference, target, exact_kl)


def _block_of(device: torch.device) -> Compute:
    compute = BLOCKS.get(device.type, InPlaceBlock.of)
    return InPlaceBlock.of if compute == FusedBlock.of and not _can_fuse(device) else compute


@cache
def _can_fuse(device: torch.device) -> bool:
    """Whether torch.compile works: it wants a C compiler, and on a GPU one that Triton knows."""
    logits = Logits(torch.zeros(2, 16, device=device), None, 1.0)
    target, one = torch.zeros(2, dtype=torch.long, device=device), torch.ones(2, device=device)
    try:
        FusedBlock.of(logits, logits, target, True).logit_gradient(target, one, one)
    except Exception as error:  # whatever a compiler finds
        reason = str(error).strip().partition("\n")[0]
        warnings.warn(f"the head is computed by single operations, since torch.compile fails: {reason}", stacklevel=2)
        return False
    return True


class InPlaceBlock(NamedTuple):
    logprobs: Tensor
    """[predictions, vocabulary]."""
    normalizer: Tensor
    """By how much logits are larger than log-probabilities, [predictions]."""
    policy: Logits
    chosen: Tensor
    ref_chosen: Tensor | None = None
    kl: Tensor | None = None
    difference: Tensor | None = None
    """log pi - log pi_ref, [predictions, vocabulary]; None where no exact KL is wanted."""

    @classmethod
    def of(cls, policy: Logits, reference: Logits | None, target: Tensor, exact_kl: bool) -> InPlaceBlock:
        """See `compute_block`."""
        logits = _scale_in_place(policy)
        chosen_logits = _gather(logits, target)
        logprobs = torch.log_softmax(logits, dim=-1)
        del logits
        chosen = _gather(logprobs, target)
        block = cls(logprobs, chosen_logits - chosen, policy._replace(product=chosen[:0]), chosen)
        if reference is None:
            return block
        of_reference = torch.log_softmax(_scale_in_place(reference), dim=-1)
        block = block._replace(ref_chosen=_gather(of_reference, target))
        if not exact_kl:
            return block
        difference = torch.sub(logprobs, of_reference, out=of_reference)
        return block._replace(difference=difference, kl=logprobs.exp().mul_(difference).sum(-1))

    def logit_gradient(self, target: Tensor, c: Tensor, g: Tensor | None) -> Tensor:
        """See `HeadBlock.logit_gradient`."""
        c, g = c / self.policy.temperature, None if g is None else g / self.policy.temperature
        slope = self._softcap_slope()
        if self.difference is None or self.kl is None or g is None:
            gradient = self.logprobs.exp_().mul_(-c[:, None])
        else:
            gradient = self.difference.sub_(self.kl[:, None]).mul_(g[:, None]).sub_(c[:, None])
            gradient.mul_(self.logprobs.exp_())
        gradient.scatter_add_(1, target[:, None], c[:, None])
        return gradient if slope is None else gradient.mul_(slope)

    def _softcap_slope(self) -> Tensor | None:
        """The slope of the cap's tanh at the logits, [predictions, vocabulary]; before they are used up."""
        if (cap := self.policy.softcap) is None:
            return None
        return 1 - ((self.logprobs + self.normalizer[:, None]) / (cap / self.policy.temperature)).square_()


class FusedBlock(NamedTuple):
    """A block of which the products alone are kept; `_score` and `_differentiate` go over them when they are needed."""

    policy: Logits
    reference: Logits | None
    scores: _Scores

    @classmethod
    def of(cls, policy: Logits, reference: Logits | None, target: Tensor, exact_kl: bool) -> FusedBlock:
        """See `compute_block`."""
        return cls(policy, reference, _Scores(*_fused(_score)(policy, reference, target, exact_kl)))

    @property
    def chosen(self) -> Tensor:
        """See `HeadBlock`."""
        return self.scores.chosen

    @property
    def ref_chosen(self) -> Tensor | None:
        """See `HeadBlock`."""
        return self.scores.ref_chosen

    @property
    def kl(self) -> Tensor | None:
        """See `HeadBlock`."""
        return self.scores.kl

    def logit_gradient(self, target: Tensor, c: Tensor, g: Tensor | None) -> Tensor:
        """See `HeadBlock.logit_gradient`."""
        gradient: Tensor = _fused(_differentiate)(self.policy, self.reference, self.scores, target, c, g)
        return gradient


class _Scores(NamedTuple):
    """[predictions] each."""

    chosen: Tensor
    normalizer: Tensor
    """Logarithm of the sum of the exponentials of the logits."""
    ref_chosen: Tensor | None
    ref_normalizer: Tensor | None
    kl: Tensor | None


def _score(policy: Logits, reference: Logits | None, target: Tensor, exact_kl: bool) -> tuple[Tensor | None, ...]:
    """What `_Scores` holds; torch.compile follows plain tuples best."""
    logits = _scale(policy)
    normalizer = logits.logsumexp(-1)
    chosen = _gather(logits, target) - normalizer
    if reference is None:
        return chosen, normalizer, None, None, None
    ref_logits = _scale(reference)
    ref_normalizer = ref_logits.logsumexp(-1)
    ref_chosen = _gather(ref_logits, target) - ref_normalizer
    if not exact_kl:
        return chosen, normalizer, ref_chosen, ref_normalizer, None
    logprobs = logits - normalizer[:, None]
    difference = logprobs - (ref_logits - ref_normalizer[:, None])
    return chosen, normalizer, ref_chosen, ref_normalizer, (logprobs.exp() * difference).sum(-1)


def _differentiate(
    policy: Logits, reference: Logits | None, scores: _Scores, target: Tensor, c: Tensor, g: Tensor | None
) -> Tensor:
    logprobs = _scale(policy) - scores.normalizer[:, None]
    probabilities = logprobs.exp()
    hit = torch.arange(probabilities.shape[1], device=target.device) == target[:, None]
    gradient = c[:, None] * (hit.float() - probabilities)
    if reference is not None and scores.ref_normalizer is not None and scores.kl is not None and g is not None:
        difference = logprobs - (_scale(reference) - scores.ref_normalizer[:, None])
        gradient = gradient + g[:, None] * probabilities * (difference - scores.kl[:, None])
    if policy.softcap is not None:
        gradient = gradient * (1 - torch.tanh(policy.product.float() / policy.softcap).square())
    return (gradient / policy.temperature).to(policy.product.dtype)


def _fused(formula: Callable[..., Any]) -> Callable[..., Any]:
    """The formula, compiled anew for every vocabulary and temperature: beyond a limit torch would not, and run it as it
    is, in several times the memory.
    """

    def run(*inputs: Any) -> Any:
        with torch._dynamo.config.patch(recompile_limit=RECOMPILES):
            return _compile(formula)(*inputs)

    return run


@cache
def _compile(formula: Callable[..., Any]) -> Any:
    return torch.compile(formula)


BLOCKS: dict[str, Compute] = {"cpu": InPlaceBlock.of, "cuda": FusedBlock.of}
"""By kind of device; `scorl.estimate` and tests put others in."""


def _scale(logits: Logits) -> Tensor:
    """Logits as they are drawn from, in float32."""
    values = logits.product.float()
    if logits.softcap is not None:
        values = torch.tanh(values / logits.softcap) * logits.softcap
    return values / logits.temperature


def _scale_in_place(logits: Logits) -> Tensor:
    """The same, in the products' own memory where they are in float32."""
    values, cap = logits.product.float(), logits.softcap
    if cap is not None:
        values.div_(cap).tanh_().mul_(cap)
    return values if logits.temperature == 1 else values.div_(logits.temperature)


def _gather(values: Tensor, index: Tensor) -> Tensor:
    return values.gather(1, index[:, None])[:, 0]
