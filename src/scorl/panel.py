"""A panel of wordings: one evaluation a wording, over the same first attempts.

Wording decides (arXiv 2604.22273), so one wording says little about a model. The placebo, which asks the problem once
more without a hint, says what comes of answering twice; what a wording adds to that is correction.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from scorl import metrics
from scorl.engines.engine import Engine
from scorl.engines.usage import usage_of
from scorl.evaluation import Evaluation, Progress, converse_all
from scorl.metrics import Difference, Interval
from scorl.settings import EvaluationSettings, MaxTokens
from scorl.tasks.task import Task
from scorl.tasks.turns import Turns
from scorl.tasks.wordings import PLACEBO

__all__ = ["Panel", "evaluate_panel", "panels_of"]


@dataclass(frozen=True)
class Panel:
    """The evaluations of one model by wording; problems, first attempts and settings are the same in all."""

    evaluations: Mapping[str, Evaluation]

    @property
    def hints(self) -> dict[str, Evaluation]:
        """All but the placebo."""
        return {name: evaluation for name, evaluation in self.evaluations.items() if name != PLACEBO}

    def spread(self) -> dict[str, Interval]:
        """The mean of every metric over the wordings, with its 95% interval over wordings and problems; the placebo is
        none."""
        return metrics.bootstrap_intervals([metrics.tally(one.groups) for one in self.hints.values()])

    def beyond_placebo(self) -> dict[str, dict[str, Difference]]:
        """What each wording adds to asking again: every metric less the placebo's, paired by problem."""
        if PLACEBO not in self.evaluations:
            return {}
        placebo = metrics.tally(self.evaluations[PLACEBO].groups)
        return {
            name: metrics.bootstrap_differences([placebo], [metrics.tally(one.groups)])
            for name, one in self.hints.items()
        }

    def summary(self) -> dict[str, Any]:
        """The panel as JSON: each evaluation's summary, the spread, and Delta corrected by the placebo.

        A single evaluation is its own summary.
        """
        if len(self.evaluations) == 1:
            return next(iter(self.evaluations.values())).summary()
        beyond = {name: asdict(differences["delta"]) for name, differences in self.beyond_placebo().items()}
        return {
            "wordings": {name: evaluation.summary() for name, evaluation in self.evaluations.items()},
            "spread": {name: asdict(interval) for name, interval in self.spread().items()} if self.hints else {},
            "delta_beyond_placebo": beyond,
        }


def panels_of(evaluations: Iterable[Evaluation]) -> list[Panel]:
    """The panel of each model."""
    by_model: dict[str, dict[str, Evaluation]] = {}
    for one in evaluations:
        by_model.setdefault(one.model, {})[one.wording or ""] = one
    return [Panel(named) for named in by_model.values()]


def evaluate_panel(
    engine: Engine,
    task: Task,
    wordings: Mapping[str, Turns],
    settings: EvaluationSettings | None = None,
    *,
    model: str = "policy",
    attempts: int = 2,
    max_tokens: MaxTokens = 256,
    seed: int = 0,
    progress: Progress | None = None,
) -> Panel:
    """As `evaluate`, once for each wording; first attempts are written and judged once for all."""
    settings = settings or EvaluationSettings()
    turns = [turns(task.correction, attempts) for turns in wordings.values()]
    everything = converse_all(engine, task, turns, settings, max_tokens=max_tokens, seed=seed, progress=progress)
    about = Evaluation(model, task.name, settings, attempts, max_tokens, seed, (), task.settings)
    about = replace(about, usage=usage_of(engine))
    return Panel(
        {
            name: replace(about, groups=groups, messages=tuple(turn.message for turn in said), wording=name)
            for name, said, groups in zip(wordings, turns, everything, strict=True)
        }
    )
