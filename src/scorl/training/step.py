"""One step of training, and its line of steps.jsonl."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean as mean
from typing import Any

from scorl import metrics
from scorl.learner import Progress
from scorl.training.stage import Stage
from scorl.trajectory import Group, TrainingExample

__all__ = ["Step"]


@dataclass(frozen=True)
class Step:
    """One step: what was sampled, what was learned from it, and what it cost."""

    index: int
    """Updates of the policy before this one, over all stages."""
    stage: Stage
    groups: Sequence[Group]
    examples: Sequence[TrainingExample]
    progress: Progress
    seconds: dict[str, float]
    """`sample`, `judge`, `learn`; `sync` where the sampler has weights of its own."""
    beta_2: float | None = None
    """Where it adapts: what stage I's strict coefficient was in this step."""
    sync_gap: float | None = None
    """Where the sampler has weights of its own: how far it was from the policy when they had been sent."""
    collected: dict[str, Any] | None = None
    """In the first step of a stage that collects: how many `trajectories` it did, their metrics, and how many of them
    became `examples`."""

    def line(self) -> dict[str, Any]:
        """The step's line of `steps.jsonl`; what is undefined (flips of a single attempt, say) is null."""
        sampled = not (self.stage.collects or self.stage.samples_nothing)
        measured = metrics.measure(self.groups)
        kept = [n for n in measured if not n.startswith(("tokens", "fix_rate", "break_rate", "edit_ratio"))]
        attempts = [a for group in self.groups for t in group for a in t.attempts]
        kl = {f"kl_t{turn + 1}": _finite(self.progress.kl.get(turn)) for turn in range(max(2, self.stage.attempts))}
        rewards = {
            f"reward_t{turn + 1}": mean([t.attempts[turn].reward for group in self.groups for t in group])
            for turn in range(self.stage.attempts)
        }
        return {
            "step": self.index,
            "stage": self.stage.label,
            "objective": self.stage.objective_name,
            **{name: measured[name] if sampled else None for name in kept},
            **{name: value if sampled else None for name, value in rewards.items()},
            **kl,
            "loss": _finite(self.progress.loss),
            "grad_norm": _finite(self.progress.grad_norm),
            "learning_rate": self.progress.learning_rate,
            "beta_2": self.beta_2,
            "logprob_gap": _finite(self.progress.logprob_gap),
            **({} if self.sync_gap is None else {"sync_gap": self.sync_gap}),
            "skipped": self.progress.skipped,
            "tokens": sum(len(a.ids) for a in attempts),
            **({"collected": self.collected} if self.collected else {}),
            "seconds": {name: round(value, 4) for name, value in self.seconds.items()},
        }


def _finite(value: float | None) -> float | None:
    """JSON knows no NaN."""
    return value if value is not None and math.isfinite(value) else None
