"""What one step of a stage has one device do, in tokens and pairs of tokens."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from scorl.objectives import PairSFT, Star
from scorl.planning.setup import Response, Setup
from scorl.stage import Stage

__all__ = ["Lesson", "Writing", "lesson", "writings"]


@dataclass(frozen=True)
class Writing:
    """One call of the engine: rows that begin at a prompt, and are decoded together."""

    rows: float
    prefilled: float
    """Tokens of prompts that are computed: each distinct one, and of later turns only what is new."""
    pairs: float
    """Pairs of a prefilled token and one that it attends to."""
    drawn: float
    """Tokens that are sampled, over all rows."""
    steps: float
    """Decoded steps: one for each token of the longest row, more where the rows do not fit into one batch."""
    context: float
    """Columns of keys and values that a row has in the end."""
    kept: bool
    """Whether its keys and values are handed on to the next call."""

    @property
    def alive(self) -> float:
        """Rows of a decoded step, on average."""
        return self.drawn / self.steps


@dataclass(frozen=True)
class Lesson:
    """What the learner gets: each distinct token once."""

    tokens: float
    predictions: float
    pairs: float
    """Pairs of a token and one that it attends to, earlier or itself."""
    computed_pairs: float
    """Pairs that attention computes: whole branches against whole paths."""
    keys: float
    """Keys that are gathered for the branches."""
    longest: float
    """Tokens of the longest trajectory."""
    anchored: bool
    """Whether the reference computes too."""


def writings(setup: Setup, stage: Stage) -> list[Writing]:
    """The engine's calls in a step, turn after turn; none where nothing is sampled."""
    if stage.samples_nothing:
        return []
    problems = setup.problems(stage)
    responses = setup.lengths.of(stage.attempts)
    found = []
    before = longest = 0.0
    for turn, response in enumerate(responses):
        rows = problems * stage.samples * (stage.branches if turn else 1)
        distinct, fresh = (rows, response.asked + 1) if turn else (problems, response.asked)
        if turn and setup.shape.windowed:
            distinct, fresh = rows / stage.branches, before + response.asked
        start = before + response.asked
        longest += response.asked + response.longest
        found.append(
            Writing(
                rows=rows,
                prefilled=distinct * fresh,
                pairs=distinct * fresh * (start - fresh / 2),
                drawn=rows * response.tokens,
                steps=max(1.0, rows / setup.batch_size) * response.tokens + response.longest - response.tokens,
                context=longest,
                kept=turn + 1 < len(responses) and not setup.shape.windowed,
            )
        )
        before = start + response.tokens
    return found


def lesson(setup: Setup, stage: Stage) -> Lesson:
    """The learner's part of a step.

    A stage that collects is taken to learn from all that it collected, which is the most that it can.
    """
    problems, epochs = setup.problems(stage), getattr(stage.objective, "epochs", 1)
    responses = setup.lengths.of(stage.attempts)
    tokens = predictions = pairs = computed = keys = before = longest = 0.0
    for turn, response in enumerate(responses):
        if turn == 0:
            tokens, pairs = problems * response.asked, problems * response.asked**2 / 2
            computed, keys = problems * response.asked**2, problems * response.asked
        branches = problems * stage.samples * (stage.branches if turn else 1) * setup.lengths.distinct
        start, length = before + (0 if turn else response.asked), response.tokens + (response.asked if turn else 0)
        tokens += branches * length
        pairs += branches * length * (start + length / 2)
        computed += branches * length * (start + length)
        keys += branches * (start + length)
        predictions += branches * response.tokens * _learned(stage, turn, response, turn == len(responses) - 1)
        before = start + length
        longest += response.asked + response.longest
    beta = max(getattr(stage.objective, name, 0.0) for name in ("beta_1", "beta_2"))
    return Lesson(
        *(epochs * value for value in (tokens, predictions, pairs, computed, keys)), longest=longest, anchored=beta > 0
    )


def _learned(stage: Stage, turn: int, response: Response, last: bool) -> float:
    """The share of a response's tokens that carry loss."""
    if not response.attempt:
        return 0.0
    if isinstance(stage.objective, Star | PairSFT) and stage.objective.imitate == "last":
        return float(last)
    return 1.0 if turn else 1.0 - stage.offline


def micro_batches(setup: Setup, lesson: Lesson) -> int:
    """Into how many micro-batches a step is cut."""
    return max(1, ceil(lesson.tokens / setup.learner.tokens_per_batch))
