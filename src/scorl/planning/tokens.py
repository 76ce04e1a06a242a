"""What one step of a stage has one device do, in tokens and pairs of tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

from scorl.objectives import PairSFT, Star
from scorl.planning.setup import Response, Setup
from scorl.training.stage import Stage

__all__ = ["KEPT_BYTES", "Lesson", "Writing", "lesson", "micro_batches", "writings"]

KEPT_BYTES = 2 << 30
"""What `scorl.engines.torch` keeps of one turn for the next, at most."""


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
    kept: float
    """Bytes of its keys and values that the next call goes on from."""

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
    if stage.objective.source == "solutions":
        return []
    problems = setup.problems(stage)
    responses = setup.lengths.of(stage.attempts)
    found: list[Writing] = []
    before = longest = 0.0
    for turn, response in enumerate(responses):
        rows = problems * stage.samples * (stage.branches if turn else 1)
        start, known = before + response.asked, _known(setup, found[-1]) * (before - 1) if found else 0.0
        fresh = start - known
        distinct = rows if turn else problems
        longest += response.asked + response.longest
        kept = rows * longest * setup.shape.cache(setup.size) if turn + 1 < len(responses) else 0.0
        found.append(
            Writing(
                rows=rows,
                prefilled=distinct * fresh,
                pairs=distinct * fresh * (start - fresh / 2),
                drawn=rows * response.tokens,
                steps=max(1.0, rows / setup.batch_size) * response.tokens + response.longest - response.tokens,
                context=longest,
                kept=0.0 if setup.shape.windowed else min(kept, _most_kept(setup)),
            )
        )
        before = start + response.tokens
    return found


def _known(setup: Setup, last: Writing) -> float:
    """The share of the rows that were kept."""
    return last.kept / (last.rows * last.context * setup.shape.cache(setup.size))


def _most_kept(setup: Setup) -> float:
    """vLLM keeps what its cache has room for, which is taken to be all."""
    return float("inf") if setup.engine == "vllm" else KEPT_BYTES


def lesson(setup: Setup, stage: Stage) -> Lesson:
    """The learner's part of a step.

    A stage that collects is taken to learn from all that it collected, which is the most that it can.
    """
    epochs = getattr(stage.objective, "epochs", 1)
    responses = setup.lengths.of(stage.attempts)
    branches = list(_branches(setup, stage))
    learned = [_learned(stage, turn, r, turn == len(responses) - 1) for turn, r in enumerate(responses)]
    written = sum(b.count * r.tokens * share for b, r, share in zip(branches[1:], responses, learned, strict=True))
    return Lesson(
        tokens=epochs * sum(b.count * b.length for b in branches),
        predictions=epochs * written,
        pairs=epochs * sum(b.count * b.length * (b.start + b.length / 2) for b in branches),
        computed_pairs=epochs * sum(b.count * b.length * (b.start + b.length) for b in branches),
        keys=epochs * sum(b.count * (b.start + b.length) for b in branches),
        longest=sum(r.asked + r.longest for r in responses),
        anchored=max(getattr(stage.objective, name, 0.0) for name in ("beta_1", "beta_2")) > 0,
    )


@dataclass(frozen=True)
class _Branch:
    """Branches of a prefix tree that are alike."""

    count: float
    start: float
    """Tokens before each."""
    length: float


def _branches(setup: Setup, stage: Stage) -> Iterator[_Branch]:
    """The prompts of all problems, then turn after turn what is appended and written."""
    problems, distinct = setup.problems(stage), setup.lengths.distinct
    start = 0.0
    for turn, response in enumerate(setup.lengths.of(stage.attempts)):
        if turn == 0:
            yield _Branch(problems, 0.0, response.asked)
            start = response.asked
        length = response.tokens + (response.asked if turn else 0.0)
        yield _Branch(problems * stage.samples * (stage.branches if turn else 1) * distinct, start, length)
        start += length


def _learned(stage: Stage, turn: int, response: Response, last: bool) -> float:
    """The share of a response's tokens that carry loss."""
    if not response.attempt:
        return 0.0
    if isinstance(stage.objective, Star | PairSFT) and stage.objective.imitate == "last":
        return float(last)
    return 1.0 if turn else 1.0 - stage.offline


def micro_batches(setup: Setup, lesson: Lesson) -> int:
    """Into how many micro-batches a step is cut."""
    return max(1, ceil(lesson.tokens / setup.learner.tokens_per_microbatch))
