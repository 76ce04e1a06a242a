"""The methods of the paper and those that came after, each as the stages that it makes of one SCoRe recipe.

What every method that trains shares: the base, the problems in their order, problems and samples a step, learning
rate and schedule, the number of updates. STaR and Pair-SFT sample the same problems as many times, but before they
learn (STaR a third of them in each of its three rounds). Single-turn RL samples one attempt where others sample two,
methods that verify three responses. What came after the paper takes its own coefficients' defaults besides beta_1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from scorl.errors import UserError
from scorl.metrics import Ending
from scorl.objectives import (
    PAG,
    UFO,
    Objective,
    OutcomeLevel,
    PairSFT,
    ProcessLevel,
    Reinforce,
    RejectionSampling,
    StageOne,
    StageTwo,
    Star,
)
from scorl.recipe import Recipe
from scorl.tasks.turns import Correction, SelfRefine, Turns, Verification
from scorl.training.stage import Stage

__all__ = ["METHODS", "Method"]

ROUNDS = 3
"""Rounds of collecting and fine-tuning in STaR (stated)."""
MIXED = 0.5
"""Share of offline first attempts where they are mixed in (open)."""


@dataclass(frozen=True)
class Shape:
    """The parts of a SCoRe recipe that methods are made of."""

    warm_up: tuple[Stage, ...]
    """Supervised stages before the first of SCoRe's; every method that trains begins with them."""
    stages: tuple[Stage, ...]
    """SCoRe's own."""

    @property
    def one(self) -> Stage:
        """The first stage I."""
        return next(s for s in self.stages if isinstance(s.objective, StageOne))

    @property
    def two(self) -> Stage:
        """The first stage II."""
        return next(s for s in self.stages if isinstance(s.objective, StageTwo))

    @property
    def steps(self) -> int:
        """Updates of every method."""
        return sum(stage.steps for stage in self.stages)


@dataclass(frozen=True)
class Method:
    """A row of the table."""

    label: str
    stages: Callable[[Shape], tuple[Stage, ...]] | None
    """None: nothing is trained."""
    turns: Callable[[Turns], Turns] = lambda turns: turns
    """What is said between attempts, given what the recipe says."""
    ending: Ending = "last"
    """When its policy stops at inference."""
    in_paper: bool = True
    """Whether it is one of the paper's methods, which are compared by default."""

    def of(self, recipe: Recipe) -> Recipe:
        """The recipe of this method.

        Raises:
            UserError: the recipe has no stage I or no stage II to take the settings from.
        """
        turns = self.turns(recipe.turns)
        if self.stages is None:
            return replace(recipe, stages=(), turns=turns)
        shape = _shape(recipe)
        return replace(recipe, stages=(*shape.warm_up, *self.stages(shape)), turns=turns)


def _shape(recipe: Recipe) -> Shape:
    kinds = [type(stage.objective) for stage in recipe.stages]
    if StageOne not in kinds or StageTwo not in kinds:
        raise UserError(
            "compare needs a SCoRe recipe, with a score_stage_one and a score_stage_two among its stages: the other "
            "methods take problems, samples, coefficients and the number of updates from these"
        )
    begin = min(kinds.index(StageOne), kinds.index(StageTwo))
    return Shape(recipe.stages[:begin], recipe.stages[begin:])


def _refine(turns: Turns) -> Turns:
    return turns if isinstance(turns, SelfRefine) else SelfRefine()


def _verify(turns: Turns) -> Turns:
    """With a verification, and the recipe's own words for the attempt after it."""
    if isinstance(turns, Verification):
        return turns
    return Verification(correction=turns.correction if isinstance(turns, Correction) else None)


def _beta(shape: Shape) -> float:
    objective = shape.two.objective
    assert isinstance(objective, StageTwo)
    return objective.beta_1


def _all(shape: Shape, objective: Objective, attempts: int = 2) -> tuple[Stage, ...]:
    """One stage of all steps."""
    stage = shape.two if attempts > 1 else replace(shape.two, branches=1, offline=0.0)
    return (replace(stage, objective=objective, steps=shape.steps, attempts=attempts, name=None),)


def _rounds(stage: Stage, steps: int, objective: Star) -> tuple[Stage, ...]:
    """Rounds of STaR with so many steps together; each continues from the model that the one before left."""
    cuts = [steps * k // ROUNDS for k in range(ROUNDS + 1)]
    return tuple(
        replace(stage, objective=objective, steps=cuts[k + 1] - cuts[k], name=f"star_{k + 1}") for k in range(ROUNDS)
    )


def _star_in_stage_two(shape: Shape) -> tuple[Stage, ...]:
    before = tuple(s for s in shape.stages if isinstance(s.objective, StageOne))
    return (*before, *_rounds(shape.two, shape.steps - sum(s.steps for s in before), Star()))


def _two(shape: Shape, change: Callable[[Stage], Stage]) -> tuple[Stage, ...]:
    """The stages with every stage II changed."""
    return tuple(change(s) if isinstance(s.objective, StageTwo) else s for s in shape.stages)


def _without_bonus(stage: Stage) -> Stage:
    assert isinstance(stage.objective, StageTwo)
    return replace(stage, objective=replace(stage.objective, alpha=0.0))


def _interleaved(shape: Shape) -> tuple[Stage, ...]:
    """Both stages in halves, one after the other, twice (version 1 of the paper)."""
    first = tuple(replace(s, steps=s.steps // 2, name=f"{s.label}_a") for s in shape.stages)
    second = tuple(replace(s, steps=s.steps - s.steps // 2, name=f"{s.label}_b") for s in shape.stages)
    return first + second


def _imitate_first(shape: Shape, imitation: RejectionSampling, objective: Objective) -> tuple[Stage, ...]:
    """Stages I give way to imitation of true conversations, stages II to another objective near what that made."""
    one = sum(stage.steps for stage in shape.stages if isinstance(stage.objective, StageOne))
    start = replace(shape.two, objective=imitation, steps=one, name=None)
    rest = replace(shape.two, objective=objective, steps=shape.steps - one, name=None, reset_reference=True)
    return (start, rest)


def _best_draft(shape: Shape) -> tuple[Stage, ...]:
    """iGRPO: as many refinements of the best draft as there are drafts, which have no gradient and no KL."""
    stage = replace(shape.two, first="best", branches=shape.two.samples, offline=0.0)
    return (replace(stage, objective=StageOne(beta_1=0.0, beta_2=0.0), steps=shape.steps, name="best_draft"),)


def _wrong_first(shape: Shape) -> tuple[Stage, ...]:
    """ScRPO: single-turn RL for half of the steps, then second attempts at wrong first ones alone."""
    single = replace(_all(shape, Reinforce(_beta(shape)), attempts=1)[0], steps=shape.steps // 2)
    stage = replace(shape.two, first="wrong", branches=shape.two.samples, offline=0.0, name="wrong_first")
    held = StageOne(beta_1=_beta(shape), beta_2=0.0)
    return (single, replace(stage, objective=held, steps=shape.steps - single.steps))


def _three_attempts(shape: Shape) -> tuple[Stage, ...]:
    """Stages I(a), I(b) near the model that I(a) made, and II (appendix A.1 of the camera-ready)."""
    one, two = shape.one, shape.two
    half = one.steps // 2
    return (
        replace(one, steps=half, name="stage_one_a"),
        replace(one, steps=one.steps - half, name="stage_one_b", attempts=3, reset_reference=True),
        replace(two, steps=shape.steps - one.steps, attempts=3),
    )


def _verifying(label: str, stages: Callable[[Shape], tuple[Stage, ...]]) -> Method:
    """A later method whose policy verifies its answers, and stops where it finds one right."""
    return Method(label, stages, _verify, "verification", in_paper=False)


METHODS: dict[str, Method] = {
    "base": Method("base", None, ending="first"),
    "self_refine": Method("Self-Refine", None, _refine),
    "star": Method("STaR, D", lambda s: _rounds(s.two, s.steps, Star())),
    "star_plus": Method("STaR, D+", lambda s: _rounds(s.two, s.steps, Star(keep_right=True))),
    "pair_sft": Method("Pair-SFT, D", lambda s: _all(s, PairSFT())),
    "pair_sft_plus": Method("Pair-SFT, D+", lambda s: _all(s, PairSFT(keep_right=True))),
    "single_turn": Method("single-turn RL", lambda s: _all(s, Reinforce(_beta(s)), attempts=1), ending="first"),
    "multi_turn": Method("multi-turn RL", lambda s: _all(s, Reinforce(_beta(s)))),
    "score": Method("SCoRe", lambda s: s.stages),
    "no_stage_one": Method("without Stage I", lambda s: _all(s, s.two.objective)),
    "no_bonus": Method(
        "without the bonus",
        lambda s: _two(s, _without_bonus),
    ),
    "star_stage_two": Method("STaR in place of RL in Stage II", _star_in_stage_two),
    "offline_only": Method(
        "offline first attempts only", lambda s: tuple(replace(stage, offline=1.0) for stage in s.stages)
    ),
    "offline_mixed": Method(
        "offline first attempts mixed in", lambda s: _two(s, lambda stage: replace(stage, offline=MIXED))
    ),
    "interleaved": Method("stages interleaved", _interleaved),
    "three_attempts": Method("three attempts", _three_attempts),
    "grpo": Method(
        "single-turn RL, scaled as in GRPO",
        lambda s: _all(s, Reinforce(_beta(s), scale_rewards="group"), attempts=1),
        ending="first",
        in_paper=False,
    ),
    "multi_turn_grpo": Method(
        "multi-turn RL, scaled as in GRPO",
        lambda s: _all(s, Reinforce(_beta(s), scale_rewards="group")),
        in_paper=False,
    ),
    "pag": _verifying("PAG", lambda s: _all(s, PAG(_beta(s)))),
    "s2r": _verifying(
        "S2R, process level",
        lambda s: _imitate_first(s, RejectionSampling(constructed=True), ProcessLevel(_beta(s))),
    ),
    "s2r_outcome": _verifying(
        "S2R, outcome level",
        lambda s: _imitate_first(s, RejectionSampling(constructed=True), OutcomeLevel(_beta(s))),
    ),
    "self_rewarding": _verifying(
        "self-rewarding correction",
        lambda s: _imitate_first(s, RejectionSampling(imitate="all"), OutcomeLevel(_beta(s))),
    ),
    "ufo": Method("UFO, told when wrong", lambda s: _all(s, UFO(_beta(s))), ending="verifier", in_paper=False),
    "best_draft": Method("best draft first (iGRPO)", _best_draft, ending="first", in_paper=False),
    "wrong_first": Method("wrong ones first (ScRPO)", _wrong_first, ending="first", in_paper=False),
}
"""The rows in the order of the table."""
