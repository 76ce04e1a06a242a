"""Rows and micro-batches: lessons as padded tensors, with the positions that carry loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scorl.trajectory import Credit, Lesson

__all__ = ["MicroBatch", "micro_batches"]


@dataclass(frozen=True)
class MicroBatch:
    """Right-padded rows [rows, width] and, flat, the tokens that carry loss [tokens] and their attempts [attempts].

    A row is a whole trajectory: the last attempt's prompt and response. The tokens of an attempt are neighbours.
    Which tokens carry loss follows from the turns alone, never from the advantage: a first attempt whose reward
    says nothing still has its KL.
    """

    ids: Tensor
    mask: Tensor
    row: Tensor
    position: Tensor
    """Where the hidden state that predicts the token lies."""
    target: Tensor
    sampled: Tensor
    """The sampler's log-probabilities."""
    attempt: Tensor
    """Which of the attempts below the token belongs to."""
    turn: Tensor
    length: Tensor
    advantage: Tensor
    beta: Tensor
    imitation: Tensor

    def to(self, device: torch.device) -> MicroBatch:
        """The same on another device."""
        return MicroBatch(**{name: getattr(self, name).to(device) for name in self.__dataclass_fields__})


def micro_batches(lessons: Sequence[Lesson], tokens: int) -> list[MicroBatch]:
    """Split lessons into micro-batches of at most `tokens` padded tokens (a longer row stands alone).

    A micro-batch in which nothing was written is left out.

    Rows of like length go together, so that little is padding; the order does not touch the gradient.
    """
    ordered = sorted(lessons, key=_width)
    batches: list[list[Lesson]] = []
    for lesson in ordered:
        if batches and _width(lesson) * (len(batches[-1]) + 1) <= tokens:
            batches[-1].append(lesson)
        else:
            batches.append([lesson])
    padded = map(_padded, batches)
    return [batch for batch in padded if len(batch.target)]


NOTHING = Credit()
"""An attempt with no credit at all teaches nothing; one that only has its KL still does."""


def _width(lesson: Lesson) -> int:
    last = lesson.trajectory.attempts[-1]
    return len(last.prompt_ids) + len(last.ids)


def _padded(lessons: Sequence[Lesson]) -> MicroBatch:
    width = max(map(_width, lessons))
    ids = torch.zeros(len(lessons), width, dtype=torch.long)
    mask = torch.zeros(len(lessons), width, dtype=torch.long)
    for row, lesson in enumerate(lessons):
        last = lesson.trajectory.attempts[-1]
        ids[row, : _width(lesson)] = torch.tensor(last.prompt_ids + last.ids)
        mask[row, : _width(lesson)] = 1
    spans = [
        (row, attempt, credit)
        for row, lesson in enumerate(lessons)
        for attempt, credit in zip(lesson.trajectory.attempts, lesson.credits, strict=True)
        if attempt.ids and not attempt.given and credit != NOTHING
    ]
    length = torch.tensor([len(attempt.ids) for _, attempt, _ in spans], dtype=torch.long)
    return MicroBatch(
        ids=ids,
        mask=mask,
        row=torch.tensor([row for row, _, _ in spans]).repeat_interleave(length),
        position=torch.tensor([len(a.prompt_ids) - 1 + j for _, a, _ in spans for j in range(len(a.ids))]),
        target=torch.tensor([token for _, a, _ in spans for token in a.ids]),
        sampled=torch.tensor([logprob for _, a, _ in spans for logprob in a.logprobs]),
        attempt=torch.arange(len(spans)).repeat_interleave(length),
        turn=torch.tensor([a.turn for _, a, _ in spans]),
        length=length,
        advantage=torch.tensor([credit.advantage for _, _, credit in spans]),
        beta=torch.tensor([credit.beta for _, _, credit in spans]),
        imitation=torch.tensor([credit.imitation for _, _, credit in spans]),
    )
