"""Arms tuned alike: every arm that trains is run with each value of one key, and keeps the one that is best on the
validation split; only then do the final seeds run.

OUT/tune/score:learner.learning_rate=0.0003/seed-1000/    a trial
OUT/score:learner.learning_rate=0.0003/seed-0/            a final run, where that value was best
OUT/score/seed-0/                                         a final run, where the recipe's own was: as without tuning
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from scorl.compare.arms import Arm
from scorl.compare.jobs import Run, plan_runs
from scorl.errors import UserError
from scorl.recipe import Recipe, changed
from scorl.recipe.renamed import leaves

__all__ = [
    "FIRST_SEED",
    "TRIALS",
    "Tuned",
    "Tuning",
    "choose_values",
    "describe_choice",
    "parse_tuning",
    "pick_arms",
    "plan_trials",
]

TRIALS = "tune"
"""The folder of the trials in that of the comparison."""
SPLIT, FIGURE = "validation", "accuracy_final"
"""What values are chosen by."""
FIRST_SEED = 1000
"""The first trial's seed, above the recipe's: with up to so many final seeds none is among them."""
TUNABLE = ("engine", "learner", "model", "stages")
"""Sections that decide how is trained; what the others hold must be the same in every arm."""


@dataclass(frozen=True)
class Tuning:
    """What is tried: the values of a key, each as the recipe would have it."""

    key: str
    values: tuple[str, ...]
    seeds: int = 1

    def try_value(self, arm: Arm, value: str) -> Arm:
        """The arm with a value."""
        return Arm(arm.method, (*arm.settings, f"{self.key}={value}"))


@dataclass(frozen=True)
class Tuned:
    """What an arm was found to do best with."""

    key: str
    value: str
    validation: Mapping[str, float | None]
    """Final accuracy on the validation split by value, the mean over seeds; None: a run did not come to its end."""
    seeds: tuple[int, ...]
    """Of the trials."""
    final: Arm
    """What the final seeds run: the arm itself, where its recipe's own value is the best."""

    def as_dict(self) -> dict[str, Any]:
        """The choice as JSON."""
        return {"key": self.key, "value": self.value, "validation": dict(self.validation), "seeds": list(self.seeds)}


def parse_tuning(text: str, recipe: Recipe, seeds: int) -> Tuning:
    """What `learner.learning_rate=1e-4,3e-4` asks for.

    Raises:
        UserError: it is no list, or the recipe has no such key, or not with these values.
    """
    key, equals, listed = text.partition("=")
    said = [value.strip() for value in listed.split(",")]
    if not key or not equals or len(said) < 2 or not all(said):
        raise UserError(
            f"--tune: '{text}' is no list of values: write KEY=A,B,... as in learner.learning_rate=1e-4,3e-4"
        )
    if key.partition(".")[0] not in TUNABLE:
        raise UserError(f"--tune: '{key}' must be the same in every arm: tune a key of {', '.join(TUNABLE)}")
    set_to = [changed(recipe, [f"{key}={value}"], f"--tune {key}={value}") for value in said]
    values = [_read(one, key, "the recipe") for one in set_to]
    if twice := next((value for value in values if values.count(value) > 1), None):
        raise UserError(f"--tune: {key}={twice} stands there twice")
    return Tuning(key, tuple(values), seeds)


def plan_trials(recipe: Recipe, arms: Sequence[Arm], tuning: Tuning, out: Path) -> list[Run]:
    """The runs that values are chosen by, of every arm that trains, at seeds that no final run has.

    Raises:
        UserError: the task has no validation split, an arm has no such key or sets it itself, or a folder holds a run
            of another recipe.
    """
    _check(recipe, arms, tuning)
    logging = replace(
        recipe.logging,
        group=recipe.logging.group or out.name,
        run_name=f"{recipe.logging.run_name or out.name}/{TRIALS}",
    )
    evaluation = replace(recipe.evaluation, split=SPLIT)
    recipe = replace(recipe, seed=recipe.seed + FIRST_SEED, evaluation=evaluation, logging=logging)
    tried = [tuning.try_value(arm, value) for arm in arms if arm.trains for value in tuning.values]
    return plan_runs(recipe, tried, tuning.seeds, out / TRIALS)


def _check(recipe: Recipe, arms: Sequence[Arm], tuning: Tuning) -> None:
    for arm in arms:
        if any(setting.startswith(f"{tuning.key}=") for setting in arm.settings):
            raise UserError(f"--tune: arm '{arm.name}' sets {tuning.key} itself")
        if arm.trains:
            _check_arm(arm, arm.recipe(recipe), recipe, tuning.key)
    task = recipe.build_task()
    try:
        task.split(SPLIT)
    except UserError as error:
        raise UserError(f"--tune chooses by the problems of the split '{SPLIT}': {error}") from None


def _check_arm(arm: Arm, made: Recipe, recipe: Recipe, key: str) -> None:
    """That the arm has the key, and is not what it is by this key: *without the bonus* by `stages.1.alpha`."""
    own = _read(made, key, f"arm '{arm.name}'")
    section, _, rest = key.partition(".")
    at = int(rest.partition(".")[0]) if section == "stages" else 0
    alike = section != "stages" or type(made.stages[at].objective) is type(recipe.stages[at].objective)
    if alike and own != _read(recipe, key, "the recipe"):
        raise UserError(f"--tune: arm '{arm.name}' is what it is by {key}={own}")


def choose_values(recipe: Recipe, arms: Sequence[Arm], tuning: Tuning, trials: Sequence[Run]) -> dict[Arm, Tuned]:
    """The best value of each arm; of equal ones the recipe's own, else the first. An arm none of whose values came to
    its end has none.
    """
    tuned = {}
    for arm in arms:
        runs = {value: [r for r in trials if r.arm == tuning.try_value(arm, value)] for value in tuning.values}
        figures = {value: _measure(of) for value, of in runs.items()}
        known = {value: figure for value, figure in figures.items() if figure is not None}
        if known:
            own = _read(arm.recipe(recipe), tuning.key, arm.name)
            best = max(known, key=lambda value: (known[value], value == own))
            seeds = tuple(run.seed for run in runs[best])
            final = arm if best == own else tuning.try_value(arm, best)
            tuned[arm] = Tuned(tuning.key, best, figures, seeds, final)
    return tuned


def describe_choice(arm: Arm, choice: Tuned) -> str:
    """What an arm was given and why, in a line."""
    figures = ", ".join(
        f"{value}: {'failed' if figure is None else f'{100 * figure:.1f}'}"
        for value, figure in choice.validation.items()
    )
    return f"{arm.label}: {choice.key} {choice.value}, by final accuracy on the {SPLIT} split ({figures})"


def pick_arms(arms: Sequence[Arm], tuned: Mapping[Arm, Tuned]) -> list[Arm]:
    """What the final seeds run of arms that were tuned; one that got no value is left out."""
    return [tuned[arm].final if arm in tuned else arm for arm in arms if arm in tuned or not arm.trains]


def _measure(runs: Sequence[Run]) -> float | None:
    """The mean figure of these seeds; None: one did not come to its end."""
    if not runs or not all(run.done for run in runs):
        return None
    figures = [run.tally(run.evaluation or {}).values()[FIGURE] for run in runs]
    return round(fmean(figure or 0.0 for figure in figures), 9)  # equal counts of other seeds are equal


def _read(recipe: Recipe, key: str, what: str) -> str:
    """A recipe's value of a key as one would write it; `what` names the recipe."""
    found = dict(leaves(recipe.as_dict()))
    if key not in found:
        raise UserError(f"--tune: {what} has no single value '{key}'")
    return found[key] if isinstance(found[key], str) else json.dumps(found[key])
