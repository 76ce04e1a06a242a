"""One step of training, and its line of steps.jsonl."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from scorl import metrics
from scorl.learner import Progress
from scorl.training.batches import Batch
from scorl.training.stage import Stage
from scorl.trajectory import Group, TrainingExample

__all__ = ["Step"]

OF_EVALUATIONS = (
    "tokens",
    "fix_rate",
    "keep_rate",
    "break_rate",
    "ceiling",
    "edit_ratio",
    "pass_",
    "majority_",
    "saved_tokens",
)
"""How the names of metrics begin that a step's line leaves to evaluations."""
OF_FIRST_ATTEMPTS = ("accuracy_t1", "reward_t1", "delta")
"""What says nothing of the policy where a reward chose the first attempts."""


@dataclass(frozen=True)
class Step:
    """One step: what was sampled, what was learned from it, and what it cost."""

    stage: Stage
    batch: Batch
    progress: Progress
    seconds: Mapping[str, float]
    """`sample`, `judge`, `learn`; `sync` where the sampler has weights of its own."""

    @property
    def index(self) -> int:
        """Updates of the policy before this one, over all stages."""
        return self.batch.step

    @property
    def groups(self) -> Sequence[Group]:
        """What was sampled, by problem."""
        return self.batch.groups

    @property
    def examples(self) -> Sequence[TrainingExample]:
        """What was learned from."""
        return self.batch.examples

    def line(self) -> dict[str, Any]:
        """The step's line of `steps.jsonl`; what is undefined (flips of a single attempt, say) is null."""
        sampled = self.stage.objective.source == "policy"
        measured = metrics.measure(self.groups)
        unknown = () if self.stage.first == "each" else OF_FIRST_ATTEMPTS
        kept = [name for name in measured if not name.startswith(OF_EVALUATIONS)]
        return {
            "step": self.index,
            "stage": self.stage.label,
            "objective": self.stage.objective_name,
            **{name: measured[name] if sampled and name not in unknown else None for name in kept},
            "out_of_context": metrics.share_out_of_context(self.groups, self.batch.sampling) if sampled else None,
            **{name: value if sampled and name not in unknown else None for name, value in self._rewards()},
            "frac_reward_zero_std": self._frac_reward_zero_std() if sampled else None,
            **self._kl(),
            "loss": _finite(self.progress.loss),
            "grad_norm": _finite(self.progress.grad_norm),
            "learning_rate": self.progress.learning_rate,
            "adaptive": dict(self.batch.objective.adaptive),
            "logprob_gap": _finite(self.progress.logprob_gap),
            **({} if self.batch.sync_gap is None else {"sync_gap": self.batch.sync_gap}),
            "skipped": self.progress.skipped,
            **({"odd_gradients": list(self.progress.odd_gradients)} if self.progress.odd_gradients else {}),
            "tokens": sum(map(metrics.count_tokens, self.groups)),
            **({"collected": dict(self.batch.collected)} if self.batch.collected else {}),
            "seconds": {name: round(value, 4) for name, value in self.seconds.items()},
        }

    def _rewards(self) -> list[tuple[str, float]]:
        """The mean reward of each response that is judged; all trajectories of a step have the same turns."""
        trajectories = [t for group in self.groups for t in group]
        first = trajectories[0]
        return [
            (f"reward_{label}", fmean(t.responses[place].reward for t in trajectories))
            for place, label in enumerate(first.labels)
            if first.responses[place].verdict
        ]

    def _frac_reward_zero_std(self) -> float | None:
        """The share of the groups in which every advantage is 0; None for groups of one."""
        credited = {id(e.trajectory) for e in self.examples if any(round(c.advantage, 9) for c in e.credits)}
        several = [group for group in self.groups if len(group) > 1]
        return fmean(not any(id(t) in credited for t in group) for group in several) if several else None

    def _kl(self) -> dict[str, float | None]:
        labels = self.groups[0][0].labels
        measured = {f"kl_{label}": _finite(self.progress.kl.get(place)) for place, label in enumerate(labels)}
        return {"kl_t1": None, "kl_t2": None, **measured}


def _finite(value: float | None) -> float | None:
    """JSON knows no NaN."""
    return value if value is not None and math.isfinite(value) else None
