"""Micro-batches: examples as rows of tokens, laid out for the model, with the tokens that carry loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from typing import overload

import torch
from torch import Tensor

from scorl.learner.tree import Tree, common_length, pack_tree
from scorl.seeds import derive
from scorl.settings import Packing
from scorl.trajectory import Credit, Response, TrainingExample, Trajectory

__all__ = [
    "MicroBatch",
    "MicroBatches",
    "PaddedRows",
    "lay_out_rows",
    "micro_batch",
    "micro_batches",
    "training_row",
]


@dataclass(frozen=True)
class PaddedRows:
    """Trajectories as right-padded rows of their own, [rows, width]."""

    ids: Tensor

    def to(self, device: torch.device) -> PaddedRows:
        """The same on another device."""
        return PaddedRows(self.ids.to(device))


@dataclass(frozen=True)
class MicroBatch:
    """Tokens as the model takes them, the predictions to be scored, and the loss tokens [tokens] with their responses.

    The tokens of a response are neighbours. A prediction is a token at a position; responses that several trajectories
    share make their predictions once. Which tokens carry loss follows from the turns alone, never from the
    advantage: a first attempt whose reward says nothing still has its KL.
    """

    layout: PaddedRows | Tree
    position: Tensor
    """Where the hidden state of each prediction lies, among all tokens laid flat; [predictions]."""
    target: Tensor
    """The token that is predicted, [predictions]."""
    prediction: Tensor
    """Which prediction a loss token is, [tokens]."""
    sampled: Tensor
    """The sampler's log-probabilities, [tokens]."""
    response: Tensor
    """Which of the responses below the token belongs to, [tokens]."""
    problem: Tensor
    """A number that the responses to a problem have in common; this and what follows is [responses]."""
    place: Tensor
    """Each response's place in its conversation."""
    length: Tensor
    advantage: Tensor
    beta: Tensor
    imitation: Tensor

    @property
    def needs_reference(self) -> bool:
        """Whether a response has a KL coefficient."""
        return bool((self.beta > 0).any())

    def to(self, device: torch.device) -> MicroBatch:
        """The same on another device, but for the layout, which chunks have in common."""
        moved = {f.name: getattr(self, f.name).to(device) for f in fields(self) if f.name != "layout"}
        return MicroBatch(layout=self.layout, **moved)

    def chunks(self, predictions: int) -> Iterator[MicroBatch]:
        """The loss tokens in chunks of about as many predictions; a response, whose KL runs through it, stays whole."""
        ends = self.length.cumsum(0)
        starts = ends - self.length
        first = 0
        # Counted in loss tokens, of which there are at least as many as distinct predictions: no chunk is too large but
        # that of a single long response, which the head cuts again.
        while first < len(ends):
            last = first + max(1, int((ends[first:] - starts[first] <= predictions).sum()))
            tokens = slice(int(starts[first]), int(ends[last - 1]))
            distinct, prediction = torch.unique(self.prediction[tokens], return_inverse=True)
            yield MicroBatch(
                layout=self.layout,
                position=self.position[distinct],
                target=self.target[distinct],
                prediction=prediction,
                sampled=self.sampled[tokens],
                response=self.response[tokens] - first,
                problem=self.problem[first:last],
                place=self.place[first:last],
                length=self.length[first:last],
                advantage=self.advantage[first:last],
                beta=self.beta[first:last],
                imitation=self.imitation[first:last],
            )
            first = last


@dataclass(frozen=True)
class MicroBatches(Sequence[MicroBatch]):
    """The micro-batches of a step, each laid out when it is asked for: masks and places of all would fill the host."""

    parts: tuple[tuple[TrainingExample, ...], ...]
    packing: Packing

    def __len__(self) -> int:
        return len(self.parts)

    @overload
    def __getitem__(self, index: int) -> MicroBatch: ...

    @overload
    def __getitem__(self, index: slice) -> MicroBatches: ...

    def __getitem__(self, index: int | slice) -> MicroBatch | MicroBatches:
        if isinstance(index, slice):
            return MicroBatches(self.parts[index], self.packing)
        return micro_batch(self.parts[index], self.packing)

    @property
    def needs_reference(self) -> list[bool]:
        """Of each whether a response has a KL coefficient; none is laid out for that."""
        return [
            any(credit.beta > 0 for example in part for *_, credit in trained_responses(example)) for part in self.parts
        ]

    @property
    def responses(self) -> list[tuple[Trajectory, int, Credit]]:
        """What carries loss, by trajectory and place, and its credit, in the order of the micro-batches' responses."""
        examples = (example for part in self.parts for example in part)
        return [(e.trajectory, place, credit) for e in examples for place, _, credit in trained_responses(e)]


def micro_batches(examples: Sequence[TrainingExample], tokens: int, packing: Packing) -> MicroBatches:
    """Split examples into micro-batches of at most `tokens` tokens (a longer row stands alone).

    Examples in which nothing carries loss are left out. How a step is cut does not touch the gradient.

    Args:
        examples: of one step.
        tokens: distinct tokens of trees, or tokens of rows with what padding they have.
        packing: `prefix_tree` computes what rows begin with in common once, the others each row by itself.
    """
    learnable = [example for example in examples if training_row(example)]
    return MicroBatches(tuple(map(tuple, _SPLIT[packing](learnable, tokens))), packing)


def training_row(example: TrainingExample) -> tuple[int, ...]:
    """The tokens from which something is predicted: all before the last one that was written."""
    last = example.trajectory.responses[-1]
    length = max((len(r.prompt_ids) + len(r.ids) - 1 for _, r, _ in trained_responses(example)), default=0)
    return (last.prompt_ids + last.ids)[:length]


def trained_responses(example: TrainingExample) -> list[tuple[int, Response, Credit]]:
    """The responses that carry loss, with their places: what the policy wrote itself, unless its credit is empty.

    One whose advantage is 0 still has its KL; one with neither trains nothing.
    """
    pairs = zip(example.trajectory.responses, example.credits, strict=True)
    return [
        (place, response, credit)
        for place, (response, credit) in enumerate(pairs)
        if response.ids and not response.offline and credit != NOTHING
    ]


NOTHING = Credit()


def _split_trees(examples: Sequence[TrainingExample], tokens: int) -> Iterator[list[TrainingExample]]:
    """By their first prompts; the samples of a problem are divided only where that repeats less than it fills."""
    # A prefix that two micro-batches share is computed in both. In sorted order a row adds what it does not share with
    # the row before, which makes the size of a tree a running sum.
    batch: list[TrainingExample] = []
    size = 0
    before: tuple[int, ...] = ()
    ordered = sorted(
        (example.trajectory.responses[0].prompt_ids, training_row(example), i) for i, example in enumerate(examples)
    )
    for _, problem in groupby(ordered, key=lambda item: item[0]):
        members = [(row, examples[i]) for _, row, i in problem]
        if batch and not _fills(before, [row for row, _ in members], tokens - size):
            yield batch
            batch, size, before = [], 0, ()
        for row, example in members:
            if batch and size + len(row) - common_length(before, row) > tokens:
                yield batch
                batch, size, before = [], 0, ()
            size += len(row) - common_length(before, row)
            before = row
            batch.append(example)
    if batch:
        yield batch


def _fills(before: tuple[int, ...], rows: Sequence[tuple[int, ...]], room: int) -> bool:
    """Whether sorted rows fit behind a row, or so many of them that the others repeat fewer tokens than these fill."""
    placed = 0
    for row in rows:
        new = len(row) - common_length(before, row)
        if placed + new > room:
            return placed > common_length(before, row)
        placed += new
        before = row
    return True


def _fill(sizes: Sequence[int], room: int) -> list[list[int]]:
    """Things of these sizes, by their places, in few batches: the largest first, each in the first where it fits."""
    batches: list[list[int]] = []
    left: list[int] = []
    for place in sorted(range(len(sizes)), key=lambda place: -sizes[place]):
        batch = next((i for i, rest in enumerate(left) if sizes[place] <= rest), len(batches))
        if batch == len(batches):
            batches.append([])
            left.append(room)
        batches[batch].append(place)
        left[batch] -= sizes[place]
    return [sorted(batch) for batch in batches]


def _split_padded(examples: Sequence[TrainingExample], tokens: int) -> Iterator[list[TrainingExample]]:
    """PaddedRows of like length together, so that little is padding."""
    batch: list[TrainingExample] = []
    for example in sorted(examples, key=lambda example: len(training_row(example))):
        if batch and len(training_row(example)) * (len(batch) + 1) > tokens:
            yield batch
            batch = []
        batch.append(example)
    if batch:
        yield batch


def _split_packed(examples: Sequence[TrainingExample], tokens: int) -> list[list[TrainingExample]]:
    """One behind the other, so that micro-batches are full."""
    batches = _fill([len(training_row(example)) for example in examples], tokens)
    return [[examples[place] for place in batch] for batch in batches]


_SPLIT: dict[Packing, Callable[[Sequence[TrainingExample], int], Iterable[list[TrainingExample]]]] = {
    "prefix_tree": _split_trees,
    "packed": _split_packed,
    "padded": _split_padded,
}


def micro_batch(examples: Sequence[TrainingExample], packing: Packing) -> MicroBatch:
    """Examples in which something carries loss, in their order, as one micro-batch."""
    layout, paths = lay_out_rows([training_row(example) for example in examples], packing)
    trained = [
        (example.trajectory.problem.id, path, place, response, credit)
        for path, example in zip(paths, examples, strict=True)
        for place, response, credit in trained_responses(example)
    ]
    position = torch.cat([p[len(r.prompt_ids) - 1 : len(r.prompt_ids) + len(r.ids) - 1] for _, p, _, r, _ in trained])
    target = torch.tensor([token for *_, r, _ in trained for token in r.ids])
    # Position and target as one number: the same token predicted at the same place of a tree, by whichever trajectory,
    # is one prediction, whose logits are computed once.
    vocabulary = int(target.max()) + 1
    distinct, prediction = torch.unique(position * vocabulary + target, return_inverse=True)
    length = torch.tensor([len(r.ids) for *_, r, _ in trained])
    return MicroBatch(
        layout=layout,
        position=distinct // vocabulary,
        target=distinct % vocabulary,
        prediction=prediction,
        sampled=torch.tensor([logprob for *_, r, _ in trained for logprob in r.logprobs]),
        response=torch.arange(len(trained)).repeat_interleave(length),
        problem=torch.tensor([derive(problem) for problem, *_ in trained]),
        place=torch.tensor([place for _, _, place, _, _ in trained]),
        length=length,
        advantage=torch.tensor([credit.advantage for *_, credit in trained], dtype=torch.float32),
        beta=torch.tensor([credit.beta for *_, credit in trained], dtype=torch.float32),
        imitation=torch.tensor([credit.imitation for *_, credit in trained], dtype=torch.float32),
    )


def lay_out_rows(rows: Sequence[tuple[int, ...]], packing: Packing) -> tuple[PaddedRows | Tree, list[Tensor]]:
    """PaddedRows as the model takes them, and for each where its tokens lie among all tokens laid flat."""
    if packing != "padded":
        tree, paths = pack_tree(rows, shares=packing == "prefix_tree")
        return tree, [torch.from_numpy(path) for path in paths]
    padded = _pad_rows(rows)
    return padded, list(torch.arange(padded.ids.numel()).view_as(padded.ids))


def _pad_rows(rows: Sequence[tuple[int, ...]]) -> PaddedRows:
    width = max(map(len, rows))
    return PaddedRows(torch.tensor([row + (0,) * (width - len(row)) for row in rows]))
