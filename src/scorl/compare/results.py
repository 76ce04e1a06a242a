"""What the runs say together: means over seeds with intervals, and each arm's paired difference to SCoRe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from scorl.compare.arms import Arm
from scorl.compare.jobs import Run
from scorl.compare.tokens import EqualTokens, compare_at_equal_tokens
from scorl.compare.tuning import Tuned
from scorl.errors import UserError
from scorl.metrics import (
    Difference,
    Interval,
    Tally,
    bootstrap_differences,
    bootstrap_intervals,
    correct_for_many,
    fisher,
    tally_outcomes,
)
from scorl.metrics.alarms import UNCHANGED
from scorl.run.history import of_same_problems

__all__ = ["ArmResult", "Collapsed", "Comparison", "summarize_runs"]

SCORE = "score"
"""The arm that the others are compared with."""


@dataclass(frozen=True)
class Collapsed:
    """How many of an arm's seeds copy: fewer than `UNCHANGED` of their answers change between attempts 1 and 2.

    Seeds end in one of two ways, which their mean hides.
    """

    seeds: int
    of: int
    p: float | None = None
    """Fisher's exact test against SCoRe's seeds; None for SCoRe itself, and where SCoRe was not run."""
    p_holm: float | None = None
    """The same, corrected for the number of arms."""

    def as_dict(self) -> dict[str, Any]:
        """The count as JSON."""
        return {"seeds": self.seeds, "of": self.of, "share": self.seeds / self.of, "p": self.p, "p_holm": self.p_holm}


@dataclass(frozen=True)
class ArmResult:
    """An arm's figures."""

    arm: Arm
    seeds: tuple[int, ...]
    metrics: dict[str, Interval]
    to_score: dict[str, Difference] = field(default_factory=dict)
    """This arm less SCoRe; empty for SCoRe itself, and where SCoRe was not run."""
    p_holm: dict[str, float] = field(default_factory=dict)
    """The p of each of these, corrected for the number of arms by Holm's step-down."""
    collapsed: Collapsed | None = None
    """None: it does not train second attempts."""
    fixed: dict[str, Interval] = field(default_factory=dict)
    """Of second attempts at the base's first ones."""
    stops: bool = False
    """Whether its policy ends some conversations early at inference."""
    tuned: Tuned | None = None
    """None: nothing was chosen for it."""
    collected: dict[str, Any] | None = None
    """What entered the data sets of STaR and Pair-SFT, by stage, of the first seed."""

    def as_dict(self) -> dict[str, Any]:
        """The row as JSON."""
        published = self.arm.published
        return {
            "label": self.arm.label,
            "seeds": list(self.seeds),
            "metrics": {name: interval.as_mean() for name, interval in self.metrics.items()},
            "to_score": {n: asdict(d) | {"p_holm": self.p_holm.get(n)} for n, d in self.to_score.items()},
            "collapsed": self.collapsed and self.collapsed.as_dict(),
            "fixed": {name: interval.as_mean() for name, interval in self.fixed.items()},
            "tuned": self.tuned and self.tuned.as_dict(),
            "collected": self.collected,
            "paper_math500": published and dict(zip(("accuracy_t1", "accuracy_t2", "delta"), published, strict=True)),
        }


@dataclass(frozen=True)
class Comparison:
    """The whole table."""

    about: dict[str, Any]
    """Model, task, problems, steps: what is the same in every row."""
    rows: tuple[ArmResult, ...]
    equal_tokens: EqualTokens | None = None
    """The same where all have sampled as many tokens; None: there are no evaluations on the way to tell."""

    def as_dict(self) -> dict[str, Any]:
        """The table as JSON: `{"about": ..., "arms": {name: row}, "equal_tokens": ...}`."""
        return {
            "about": self.about,
            "arms": {row.arm.name: row.as_dict() for row in self.rows},
            "equal_tokens": self.equal_tokens and self.equal_tokens.as_dict(),
        }


def summarize_runs(runs: Sequence[Run], tuned: Mapping[Arm, Tuned] | None = None) -> Comparison:
    """The table of the runs that are done; an arm without one has no row, and one that was tuned keeps its name.

    Raises:
        UserError: the runs were evaluated on other problems.
    """
    tuned = tuned or {}
    asked = {choice.final: arm for arm, choice in tuned.items()}
    runs = [replace(run, arm=asked.get(run.arm, run.arm)) for run in runs]
    done = [run for run in runs if run.done]
    _check_problems(done)
    by_arm = [[run for run in done if run.arm == arm] for arm in dict.fromkeys(run.arm for run in runs)]
    score = [run for run in done if run.arm.name == SCORE]
    rows = [replace(_summarize_arm(of, score), tuned=tuned.get(of[0].arm)) for of in by_arm if of]
    return Comparison(_describe(done) if done else {}, tuple(_correct_ps(rows)), compare_at_equal_tokens(done))


def _check_problems(runs: Sequence[Run]) -> None:
    for run in runs[1:]:
        others = dict(_evaluation(run))
        if run.recipe.task != runs[0].recipe.task:  # it may ask the same problems in other words
            others.pop("problems_hash", None)
        if not of_same_problems(_evaluation(runs[0]), others):
            raise UserError(
                f"{run.directory} was evaluated on other problems than {runs[0].directory}: the data have changed, or "
                "an arm sets what they hang on. Delete the runs on problems that are not wanted, and start again"
            )


def _summarize_arm(runs: Sequence[Run], score: Sequence[Run]) -> ArmResult:
    tallies = [_tally(run) for run in runs]
    fixed = [tally_outcomes(e["fixed"]["outcomes"]) for e in map(_evaluation, runs) if "fixed" in e]
    return ArmResult(
        runs[0].arm,
        tuple(run.seed for run in runs),
        bootstrap_intervals(tallies),
        _compare_to_score(runs, score),
        collapsed=_count_collapsed(runs, score),
        fixed=bootstrap_intervals(fixed) if fixed else {},
        stops=runs[0].ending in ("verification", "verifier"),
        collected=_read_collected(runs[0]),
    )


def _count_collapsed(runs: Sequence[Run], score: Sequence[Run]) -> Collapsed | None:
    """The arm's collapsed seeds against SCoRe's: all seeds of both, since the test pairs nothing."""
    if not runs[0].corrects:
        return None
    seeds, others = (sum(map(_is_collapsed, side)) for side in (runs, score))
    known = score and runs[0].arm.name != SCORE
    return Collapsed(seeds, len(runs), fisher(seeds, len(runs), others, len(score)) if known else None)


def _is_collapsed(run: Run) -> bool:
    changed = _tally(run).values()["answer_changed"]
    return changed is not None and changed < UNCHANGED


def _correct_ps(rows: Sequence[ArmResult]) -> list[ArmResult]:
    """With every p corrected for the number of arms: a figure's comparisons with SCoRe are one family."""
    names = dict.fromkeys(name for row in rows for name in row.to_score)
    by_name = {name: _correct_family([_p(row.to_score.get(name)) for row in rows]) for name in names}
    collapsed = _correct_family([_p(row.collapsed) for row in rows])
    return [
        replace(
            row,
            p_holm={name: p for name, family in by_name.items() if (p := family[k]) is not None},
            collapsed=row.collapsed and replace(row.collapsed, p_holm=collapsed[k]),
        )
        for k, row in enumerate(rows)
    ]


def _p(tested: Difference | Collapsed | None) -> float | None:
    return tested.p if tested else None


def _correct_family(ps: Sequence[float | None]) -> list[float | None]:
    """The p of each arm, corrected for as many as there are."""
    corrected = iter(correct_for_many([p for p in ps if p is not None]))
    return [None if p is None else next(corrected) for p in ps]


def _compare_to_score(runs: Sequence[Run], score: Sequence[Run]) -> dict[str, Difference]:
    """The arm less SCoRe over the seeds that both have; an arm that is not trained against all of SCoRe's."""
    if runs[0].arm.trains:
        common = {run.seed for run in runs} & {run.seed for run in score}
        runs, score = ([run for run in side if run.seed in common] for side in (runs, score))
    if not score or runs[0].arm.name == SCORE:
        return {}
    before, after = ([_tally(run) for run in side] for side in (score, runs))
    found = bootstrap_differences(before, after)
    if runs[0].ending == "verifier":  # it is told when it is right, as SCoRe is not
        found.pop("accuracy_final", None)
    return found


def _evaluation(run: Run) -> dict[str, Any]:
    assert run.evaluation is not None
    return run.evaluation


def _tally(run: Run) -> Tally:
    return run.tally(_evaluation(run))


def _read_collected(run: Run) -> dict[str, Any] | None:
    return {step["stage"]: step["collected"] for step in run.files.steps() if "collected" in step} or None


def _describe(done: Sequence[Run]) -> dict[str, Any]:
    recipe = next((run.recipe for run in done if run.recipe.stages), done[0].recipe)
    evaluation = _evaluation(done[0])
    return {
        "model": recipe.model.path,
        "task": recipe.task.name,
        "split": recipe.evaluation.split,
        "test_problems": evaluation["problems"],
        "temperature": recipe.evaluation.temperature,
        "steps": recipe.steps,
        "problems_a_step": recipe.stages[-1].problems if recipe.stages else None,
        "samples_a_problem": recipe.stages[-1].samples if recipe.stages else None,
    }
