"""The output head: log-probabilities of what is predicted, its KL to the reference, and the gradients of both.

One autograd function, for with the vocabularies of today the head costs as much as the layers. It goes block by block
(`scorl.learner.head_block`), each of which knows the loss's gradient by its own logits. The weight is cast to the type
that is computed in once a step, and its gradient is summed over all blocks of a step in float32.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from scorl.learner.head_block import HeadBlock, Logits, block_size, compute_block
from scorl.model.head import HeadKind, backbone, logit_divisor, logit_softcap, own_logits
from scorl.model.onednn import OnednnLinear, onednn_linear, onednn_weight_gradient

__all__ = ["Head", "Prediction", "make_head", "predict"]


def make_head(decoder: Any, dtype: torch.dtype, kind: HeadKind) -> Head:
    """A model's output head during one step, computed in a type."""
    return Head(decoder, dtype) if kind == "linear" else OwnHead(decoder, dtype)


class Prediction(NamedTuple):
    """What a head says of the predicted tokens, [predictions] each."""

    logprobs: Tensor
    """log pi of the target, with gradient."""
    ref_logprobs: Tensor | None
    """log pi_ref of the target."""
    kl: Tensor | None
    """KL(pi || pi_ref) over the vocabulary, with gradient, where it was asked for."""


class Head:
    """A model's output head during one step.

    Args:
        decoder: a Hugging Face model.
        dtype: that its products are computed in.
    """

    def __init__(self, decoder: Any, dtype: torch.dtype) -> None:
        self._linear: nn.Linear = decoder.get_output_embeddings()
        self._dtype = dtype
        self._cast: Tensor | None = None
        self._by_onednn = isinstance(self._linear, OnednnLinear)
        self.softcap, self._divisor = logit_softcap(decoder), logit_divisor(decoder)
        self.gradients: dict[str, Tensor] = {}
        """Of the weight and the bias, where they are trained; the step's so far, in float32."""

    @property
    def vocabulary(self) -> int:
        """How many words there are."""
        return int(self._linear.weight.shape[0])

    @property
    def weight(self) -> Tensor:
        """[vocabulary, width], in the type that is computed in."""
        weight = self._linear.weight.detach()
        if weight.dtype == self._dtype:  # also where shards are gathered for each pass, which cast by themselves
            return weight
        if self._cast is None:
            self._cast = weight.to(self._dtype)
        return self._cast

    def parameters(self) -> dict[str, nn.Parameter]:
        """The weight and the bias, where they are trained."""
        return {name: p for name, p in self._linear.named_parameters() if p.requires_grad}

    def block(self) -> int:
        """The predictions of a block."""
        return block_size(self._linear.weight.device, self._dtype, self.vocabulary)

    def logits(self, hidden: Tensor, temperature: float) -> Logits:
        """Of each prediction and word; what the model divides them by counts as temperature."""
        return Logits(self._product(hidden), self.softcap, temperature * self._divisor)

    def _product(self, hidden: Tensor) -> Tensor:
        x = hidden.to(self._dtype)
        bias = None if self._linear.bias is None else self._linear.bias.detach().to(self._dtype)
        return onednn_linear(x, self.weight, bias) if self._by_onednn else F.linear(x, self.weight, bias)

    def pull_back(self, gradient: Tensor, hidden: Tensor) -> Tensor:
        """The gradient by the hidden states, [predictions, width], of one by the products; the weight's is added up."""
        gradient, x = gradient.to(self._dtype), hidden.to(self._dtype)
        trained = self.parameters()
        if "weight" in trained:
            self._sum("weight", self._weight_gradient(gradient, x))
        if "bias" in trained:
            self._sum("bias", gradient.sum(0, dtype=torch.float32))
        by_hidden = onednn_linear(gradient, self.weight.t()) if self._by_onednn else gradient @ self.weight
        return by_hidden.to(hidden.dtype)

    def _weight_gradient(self, gradient: Tensor, x: Tensor) -> Tensor:
        if gradient.is_cuda and gradient.dtype != torch.float32:
            return torch.mm(gradient.t(), x, out_dtype=torch.float32)
        return onednn_weight_gradient(gradient, x) if self._by_onednn else gradient.t() @ x

    def _sum(self, name: str, gradient: Tensor) -> None:
        if name in self.gradients:
            self.gradients[name] += gradient
        else:
            self.gradients[name] = gradient.float()


class OwnHead(Head):
    """A head of which nothing is known but that the model computes it: slow, and right.

    Args:
        decoder: a Hugging Face model.
        dtype: that it is computed in.
    """

    def __init__(self, decoder: Any, dtype: torch.dtype) -> None:
        super().__init__(decoder, dtype)
        self._decoder, self._by_onednn = decoder, False
        self.softcap, self._divisor = None, 1.0

    def parameters(self) -> dict[str, nn.Parameter]:
        """What is trained of it: all that stands outside of the layers, and the weight that may be an embedding too."""
        layers = {id(p) for p in backbone(self._decoder).parameters()}
        layers -= {id(p) for p in self._linear.parameters()}
        named = self._decoder.named_parameters()
        return {name: p for name, p in named if p.requires_grad and id(p) not in layers}

    def _product(self, hidden: Tensor) -> Tensor:
        with torch.no_grad():
            return self._logits(hidden)

    def pull_back(self, gradient: Tensor, hidden: Tensor) -> Tensor:
        """See `Head.pull_back`."""
        trained = self.parameters()
        with torch.enable_grad():
            x = hidden.detach().requires_grad_()
            logits = self._logits(x)
        wanted = [x, *trained.values()]
        by_hidden, *by_weights = torch.autograd.grad(logits, wanted, gradient.to(logits.dtype), allow_unused=True)
        for name, by_weight in zip(trained, by_weights, strict=True):
            if by_weight is not None:
                self._sum(name, by_weight)
        return by_hidden

    def _logits(self, hidden: Tensor) -> Tensor:
        with torch.autocast(hidden.device.type, self._dtype, enabled=self._dtype != torch.float32):
            return own_logits(self._decoder, hidden)


def predict(
    head: Head,
    reference: Head | None,
    hidden: Tensor,
    ref_hidden: Tensor | None,
    target: Tensor,
    temperature: float,
    exact_kl: bool,
) -> Prediction:
    """What the policy and the reference say of the tokens that are predicted.

    Predictions that fit one block keep their logits until their gradient is asked for; of more, each block's are
    computed again for it.

    Args:
        head: the policy's.
        reference: the reference's; None: no KL is needed.
        hidden: the policy's last hidden states, [predictions, width], with gradient.
        ref_hidden: the reference's.
        target: the tokens, [predictions].
        temperature: the sampling temperature; 0 is taken as 1.
        exact_kl: whether the KL over the vocabulary is wanted.
    """
    how = _How(head, reference, temperature or 1.0, exact_kl and reference is not None)
    logprobs, ref_logprobs, kl = _Predict.apply(hidden, ref_hidden, target, how)  # type: ignore[no-untyped-call]
    return Prediction(logprobs, ref_logprobs, kl)


class _How(NamedTuple):
    head: Head
    reference: Head | None
    temperature: float
    exact_kl: bool

    def compute(self, hidden: Tensor, ref_hidden: Tensor | None, target: Tensor) -> HeadBlock:
        """A block, from its hidden states and targets."""
        policy = self.head.logits(hidden, self.temperature)
        if self.reference is None or ref_hidden is None:
            return compute_block(policy, None, target, exact_kl=False)
        reference = self.reference.logits(ref_hidden, self.temperature)
        return compute_block(policy, reference, target, self.exact_kl)


class _Predict(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, ref_hidden: Tensor | None, target: Tensor, how: _How
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        ctx.save_for_backward(hidden, ref_hidden, target)
        ctx.how, ctx.kept = how, None
        blocks, parts = _cut(how.head.block(), hidden, ref_hidden, target), []
        for inputs in blocks:
            block = how.compute(*inputs)
            ctx.kept = block if len(blocks) == 1 else None
            parts.append((block.chosen, block.ref_chosen, block.kl))
        chosen, ref_chosen, kl = (
            torch.cat([tensor for tensor in tensors if tensor is not None]) if tensors[0] is not None else None
            for tensors in zip(*parts, strict=True)
        )
        assert chosen is not None
        if ref_chosen is not None:
            ctx.mark_non_differentiable(ref_chosen)
        return chosen, ref_chosen, kl

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_logprob: Tensor, _: Any, by_kl: Tensor | None) -> tuple[Tensor, None, None, None]:
        how: _How = ctx.how
        hidden, ref_hidden, target = ctx.saved_tensors
        gradients = []
        size = how.head.block()
        blocks = _cut(size, hidden, ref_hidden, target)
        of_outputs = _cut(size, by_logprob, by_kl)
        for inputs, (c, g) in zip(blocks, of_outputs, strict=True):
            block: HeadBlock = ctx.kept or how.compute(*inputs)
            gradients.append(how.head.pull_back(block.logit_gradient(inputs[2], c, g), inputs[0]))
            ctx.kept = None
        return torch.cat(gradients), None, None, None


def _cut(size: int, *tensors: Tensor | None) -> list[Any]:
    """Tensors of one length, of which some may be None, cut into blocks: a tuple of their parts each."""
    parts = [None if tensor is None else torch.split(tensor, size) for tensor in tensors]
    count = next(len(part) for part in parts if part is not None)
    return [tuple(None if part is None else part[i] for part in parts) for i in range(count)]
