"""Guards that stop a run which would otherwise train on nonsense without a word.

A function a guard. Each says what it catches, and the figures behind its limit: on the shipped models and
SmolLM2-135M, with all weights and with adapters, at temperatures 1 and 0.7 (docs/guards.md has the table).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import torch
from torch import nn

from scorl.engines.engine import Arithmetic
from scorl.errors import GuardError
from scorl.learner.agreement import Agreement
from scorl.learner.statistics import Pull
from scorl.trajectory import TrainingExample

__all__ = [
    "GAP_LIMITS",
    "GRADIENT_FLOOR",
    "NAMED",
    "SKIPS_IN_WINDOW",
    "SKIP_WINDOW",
    "TOGETHER_IN_HALF",
    "check_agreement",
    "check_apart",
    "check_at_reference",
    "check_credits",
    "check_direction",
    "check_finite",
    "check_fresh",
    "check_history",
    "check_optimizer",
    "check_placed",
    "check_reach",
    "check_reference_kept",
    "check_skips",
    "check_trainable",
    "is_finite",
    "parts",
]

GAP_LIMITS: Mapping[Arithmetic, Mapping[torch.dtype, float]] = {
    "same": {torch.float32: 1e-4, torch.bfloat16: 0.15, torch.float16: 0.02},
    "other": {torch.float32: 1e-3, torch.bfloat16: 0.15, torch.float16: 0.03},
    "none": {},
}
"""The largest mean |difference| of log-probabilities that is rounding, by how the engine comes to its own and by the
type that is computed in. The sharper a model's distribution, the larger: SmolLM2 has ten times the tiny models'.

`same`: 5e-6, 0.046 and 0.0054 were seen at most, from other batches, prefix trees and shared prompts. `other`: 7e-6 in
float32; its kernels round differently, which float32 shows most. `none`: there is nothing to agree with.
"""

_TILT = 0.02
"""Slope of the differences over the log-probabilities: a temperature wrong by 10% came to 0.038 or more, rounding in
bfloat16 to at most 0.017, unless the policy was nearly certain."""
_CHANCE = 1e-8
"""How improbable a slope must be as rounding's (p); a run looks at thousands of them."""

_KL_AT_START = 1e-3
"""Nats an attempt; exact KL of equal models is 0 but for rounding."""

GRADIENT_FLOOR = 1e-6
"""Below it a gradient is rounding, and says nothing about whether an update works."""

_VISIBLE_LR = 1e-7
"""A learning rate from which on an update with a gradient changes what float32 computes."""

NAMED = 5
"""Tensors at most that are named one by one."""

TOGETHER_IN_HALF = 20
"""Updates in a row behind which a KL of exactly 0 is no rounding in half precision."""

SKIP_WINDOW, SKIPS_IN_WINDOW = 20, 3
"""Updates that are looked back on, and how many of them may not be skipped."""


def check_trainable(parameters: Mapping[str, nn.Parameter]) -> None:
    """Catches a model of which nothing is trained, or in weights too coarse to be trained.

    At a learning rate of 5e-6 a bfloat16 weight of 0.02, whose neighbours are 1e-4 away, never changes.
    """
    if not parameters:
        raise GuardError("no parameter is trainable: nothing would be learned")
    small = {str(p.dtype) for p in parameters.values() if p.dtype != torch.float32}
    if small:
        raise GuardError(
            f"trainable weights are {', '.join(sorted(small))}: at usual learning rates most updates round to nothing. "
            "Policy keeps them in float32; who changed them?"
        )


def check_fresh(parameters: Iterable[nn.Parameter]) -> None:
    """Catches gradients that were never zeroed: a step begins without any."""
    if any(p.grad is not None for p in parameters):
        raise GuardError(
            "gradients are left from before this step, and would be added to its own: who keeps them, or calls "
            "backward() outside of Learner.update?"
        )


def check_optimizer(optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]) -> None:
    """Catches an optimiser that holds half of the weights, or others: it must hold the policy's, in their order."""
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    if held != [id(p) for p in parameters.values()]:
        missing = [name for name, p in parameters.items() if id(p) not in held]
        raise GuardError(
            f"the optimiser holds {len(held)} tensors, and not the policy's {len(parameters)} trainable ones in their "
            f"order: {len(missing)} are missing{f', {missing[0]} first' if missing else ''}. Who changed the "
            "optimiser, or replaced the policy's parameters? Learner.reset_optimizer makes a new one"
        )


def check_history(examples: Sequence[TrainingExample]) -> None:
    """Catches a context that was rewritten: each prompt must begin with the one before and what was written behind it.

    Else the learner scores tokens behind others than they were drawn behind. Nothing but tokens is compared, which half
    precision does not blur.
    """
    for trajectory in (example.trajectory for example in examples):
        for place, (before, then) in enumerate(pairwise(trajectory.responses), 1):
            kept = before.prompt_ids + before.ids
            if then.prompt_ids[: len(kept)] != kept:
                raise GuardError(
                    f"the history was rewritten: {trajectory.name(place)}, is asked behind other tokens than those "
                    "that were read and written before it. Chat.follow appends; does a chat template render the "
                    "conversation anew?"
                )


def check_credits(examples: Sequence[TrainingExample]) -> None:
    """Catches a credit that is no finite number: it would spoil the whole step, whose loss does not say where."""
    for trajectory, credits in ((example.trajectory, example.credits) for example in examples):
        for place, credit in enumerate(credits):
            if not all(map(math.isfinite, (credit.advantage, credit.beta, credit.imitation))):
                raise GuardError(
                    f"a credit is not finite: {credit} of {trajectory.name(place)}. Look at its rewards (`scorl show`) "
                    "and at what the objective makes of them"
                )


def check_placed(misplaced: Sequence[str]) -> None:
    """Catches credits beside other tokens or responses than their own: what micro-batches carry is compared."""
    if misplaced:
        raise GuardError(
            "credits stand beside other tokens or responses than those they were given for: micro-batches differ from "
            f"their training examples in {misplaced[0]}. What lays them out or cuts them is wrong"
        )


def check_finite(odd: Sequence[str]) -> None:
    """Catches a log-probability or a KL that is no finite number; `odd` says whose, what it is and where.

    What it is compared with would be neither too far away nor near.
    """
    if odd:
        more = f" (and of {len(odd) - 1} more)" if len(odd) > 1 else ""
        raise GuardError(
            f"{odd[0]}{more}. Does the model overflow, in half precision above all, or does the sampler return "
            "nonsense?"
        )


def check_agreement(agreement: Agreement, arithmetic: Arithmetic, dtype: torch.dtype, limit: float | None) -> None:
    """Catches a sampler that is not the policy: stale weights or keys and values, another temperature.

    In float32 the mean gap does it: a temperature wrong by 2% comes to 3e-3, keys and values one update old (at a rate
    of 3e-4) to 1e-3. In half precision both drown in rounding; there the slope sees a temperature wrong by 5% to 10%,
    and what is one update old is not seen. A `limit` takes the place of both.
    """
    most = GAP_LIMITS[arithmetic].get(dtype) if limit is None else limit
    gap = agreement.mean_gap
    if gap is None or most is None:
        return
    where = f"engine arithmetic '{arithmetic}', {str(dtype).removeprefix('torch.')}; learner.max_logprob_gap sets it"
    if not gap <= most:  # nor NaN
        raise GuardError(
            f"sampler and learner disagree by {gap:.3g} on a token's log-probability (mean; at most {most:g} allowed: "
            f"{where}): stale weights in the sampler, stale keys and values, another dtype or temperature, or a chat "
            "history that was rewritten"
        )
    slope, chance = agreement.tilt
    if limit is None and abs(slope) > _TILT and chance < _CHANCE:
        raise GuardError(
            f"sampler and learner disagree the more, the less likely a token is: by {slope:+.1%} of its "
            f"log-probability (at most {_TILT:.0%} allowed, p < {_CHANCE:.0e}). Rounding does not: does "
            "the sampler draw at another temperature? A learner.max_logprob_gap of your own replaces this check"
        )


def check_at_reference(kl: Mapping[int, float]) -> None:
    """Catches a reference that is not the policy that training starts from: until an update their KL must be 0."""
    worst = next((abs(value) for value in kl.values() if not abs(value) <= _KL_AT_START), None)  # NaN as well
    if worst is not None:
        raise GuardError(
            f"the KL to the reference is {worst:.2e} before any update and should be 0: "
            "the reference is not the policy that training starts from"
        )


def parts(lr: float, grad_norm: float) -> bool:
    """Whether an update changes what the policy computes in float32."""
    return lr >= _VISIBLE_LR and grad_norm > GRADIENT_FLOOR


def check_apart(kl: Mapping[int, float], dtype: torch.dtype, together: int) -> None:
    """Catches a reference that is the policy itself: after an update their KL is not 0 to the last bit.

    In half precision one update may be too small to change what is computed; `together` is how many there were.
    """
    if kl and not any(kl.values()) and together >= (1 if dtype == torch.float32 else TOGETHER_IN_HALF):
        raise GuardError(
            f"the KL to the reference is exactly 0 behind {together} update(s) that changed the policy: the reference "
            "moves along with the policy, which nothing holds any more"
        )


def check_reference_kept(moved: bool) -> None:
    """Catches a reference whose weights move: their checksums are compared behind every update.

    Costs one pass over the reference's memory, 0.1% of a step of `scorl train countdown`.
    """
    if moved:
        raise GuardError(
            "the reference's weights have changed since it was set (at the start, by reset_reference, or on loading): "
            "the KL would be to a moving target. Who else holds these tensors?"
        )


def check_direction(pull: Pull) -> None:
    """Catches a loss that does not do what credits say: a flipped sign, tokens that are left out or stand elsewhere.

    It must fall by each token's credit as that token's log-probability rises. What the KL in the reward may take off is
    left open, so that where it outweighs the credits this is not seen.
    """
    if pull.astray < 1:
        return
    if pull.along_loss < -GRADIENT_FLOOR:
        raise GuardError(
            "the loss rises where log-probabilities rise in proportion to their credits, so training would unlearn "
            "what is credited: is the sign of the advantage flipped in the loss?"
        )
    raise GuardError(
        f"at {pull.astray:.0f} tokens the loss does not fall by their credits as their log-probabilities rise: does it "
        "leave tokens out, or meet them with the credits of others?"
    )


def check_reach(pull: Pull, grad_norm: float, dtype: torch.dtype, proven: bool, before: bool) -> bool:
    """Catches a loss that does not reach what is trained (adapters scaled by 0, a detached output).

    What is credited is not certain, and yet the whole gradient is 0. Once an update is proven, that has to come twice
    in a row: credits of equal responses may cancel. Nor is it looked for in float16 then, in which small gradients
    become 0 rightly where a policy is nearly certain.

    Args:
        before: whether it was so in the step before.

    Returns:
        Whether it is so now.
    """
    unreached = grad_norm == 0 and pull.at_tokens > GRADIENT_FLOOR
    if unreached and (before or not proven) and not (proven and dtype == torch.float16):
        raise GuardError(
            f"the loss does not reach the trainable weights: the credits pull by {pull.at_tokens:.2e} at the logits, "
            "and the gradient of every trainable weight is 0. Are the adapters scaled by 0 (lora_alpha), or is "
            "something detached?"
        )
    return unreached


def is_finite(loss: float, grad_norm: float) -> bool:
    """Whether an update may be applied."""
    return math.isfinite(loss) and math.isfinite(grad_norm)


def check_skips(skips: int, loss: float, grad_norm: float, odd_gradients: Sequence[str] = ()) -> None:
    """Catches overflows that come again: two updates in a row, or three of the last twenty.

    One may pass by, in half precision above all. `skips` has a bit for each of the last updates, the newest the lowest.
    """
    count = skips.bit_count()
    twice = skips & 0b11 == 0b11
    if twice or (skips & 1 and count >= SKIPS_IN_WINDOW):
        how = "twice in a row" if twice else f"in {count} of the last {SKIP_WINDOW} updates"
        whose = f"; the gradients of {', '.join(odd_gradients)}" if odd_gradients else ""
        raise GuardError(f"loss {loss} and gradient norm {grad_norm}: one or both were not finite {how}{whose}")
