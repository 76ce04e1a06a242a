"""Settings of the learner."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Interval

from scorl.errors import UserError

__all__ = ["IMPORTANCE_CAP", "KL_IN", "LearnerSettings", "Packing"]

Packing = Literal["prefix_tree", "packed", "padded"]
"""How trajectories are laid out for the learner's forward pass."""


@dataclass(frozen=True)
class LearnerSettings:
    """Optimiser, schedule, KL estimator and batching; the defaults are the paper's where it states them."""

    optim: Literal["adam", "adamw"] = "adam"
    """Adam (stated in the paper), or AdamW with `weight_decay`."""
    learning_rate: Annotated[float, Interval(gt=0, le=10)] = 5e-6
    """Peak learning rate: 5e-6 on MATH, 1e-5 on MBPP (stated)."""
    adam_beta1: Annotated[float, Interval(ge=0, lt=1)] = 0.9
    """Decay rate of Adam's mean of gradients (open: torch's default)."""
    adam_beta2: Annotated[float, Interval(ge=0, lt=1)] = 0.999
    """Decay rate of Adam's mean of squared gradients (open: torch's default)."""
    weight_decay: Annotated[float, Ge(0)] = 0.0
    """Decoupled weight decay; read by adamw alone."""
    lr_scheduler_type: Literal["constant", "linear", "cosine"] = "constant"
    """The learning rate after the warm-up, over the steps of all stages: constant, or falling to 0 (open: constant)."""
    warmup_steps: Annotated[int, Ge(0)] = 0
    """Steps over which the learning rate rises linearly to `learning_rate` (open: none)."""
    max_grad_norm: Annotated[float, Ge(0)] = 1.0
    """Largest gradient norm; 0 switches clipping off (open: 1.0)."""
    kl: Literal["exact", "k1", "k2", "k3"] = "exact"
    """KL at each token: exact over the vocabulary, or a sampled estimator (open: exact; see docs/loss.md)."""
    kl_in: Literal["both", "loss", "reward"] = "both"
    """Where the KL acts: differentiated in the loss, taken off the reward of the tokens before it, or both;
    `both` with `exact` is the unbiased gradient of the KL between whole attempts (open)."""
    kl_over: Literal["sum", "mean"] = "sum"
    """Whether an attempt's KL is the sum over its tokens (the KL of whole responses, Eq. 2) or their mean (open)."""
    tokens_per_microbatch: Annotated[int, Ge(1)] = 16384
    """Distinct tokens per micro-batch (with `packing: padded` tokens and padding); gradients accumulate over as many
    micro-batches as a step needs."""
    packing: Packing = "prefix_tree"
    """`prefix_tree` computes what trajectories begin with in common once, `packed` each by itself, one behind the other
    without padding, `padded` each as its own row; equal results."""
    gradient_checkpointing: bool = False
    """Compute the layers again in the backward pass in place of keeping what they computed: slower, far less memory."""
    sync_each_batch: bool = True
    """With `launcher.parallel: fsdp2`: sum gradients over the ranks after each micro-batch; false: once a step, for
    slow connections, with whole gradients on each rank (4 bytes a trained parameter). Adapters: each time anyway."""
    use_liger_kernel: bool | Literal["auto"] = "auto"
    """Use Liger's kernels for norms, rotary embeddings and gated MLPs, of the sampling model too: the learner takes a
    fifth less time, and the engine `torch` a third more. `auto`: on a GPU with the engine `vllm`, where they are there
    (`pip install 'scorl[liger]'`); a learner that no recipe made takes it as false."""
    max_logprob_gap: Annotated[float, Gt(0)] | None = None
    """The run stops when sampler and learner disagree by more than this on a token's log-probability, on average; null:
    by engine and dtype, 1e-4 for `torch` in float32 (docs/guards.md), and disagreement must not grow with surprise."""
    importance_sampling_cap: Annotated[float, Gt(0)] | Literal["auto"] | None = "auto"
    """Weigh each token's advantage by min(learner's probability / sampler's, this), which corrects what an engine other
    than `torch` samples differently. null: no weights, right where both share weights and arithmetic; `auto`: 2 with
    the engine `vllm`, else null."""

    def with_cap_for(self, arithmetic: Literal["same", "other", "none"]) -> LearnerSettings:
        """With what `importance_sampling_cap: auto` is behind an engine of this arithmetic."""
        if self.importance_sampling_cap != "auto":
            return self
        return replace(self, importance_sampling_cap=IMPORTANCE_CAP if arithmetic == "other" else None)

    def __post_init__(self) -> None:
        if self.kl_in not in KL_IN[self.kl]:
            raise UserError(
                f"learner.kl_in: '{self.kl_in}' with kl '{self.kl}' is not the gradient of a KL, and holds nothing "
                f"(docs/loss.md). Allowed with '{self.kl}': {', '.join(KL_IN[self.kl])}"
            )


IMPORTANCE_CAP = 2.0
"""Of importance weights where the sampler is another engine, as TRL and others have it."""

KL_IN = {"exact": ("both", "loss"), "k1": ("reward",), "k2": ("both", "loss"), "k3": ("both", "loss")}
"""Where each KL estimator can act."""
