"""Whether micro-batches carry credits beside the tokens and the responses that they were given for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import chain

import torch
from torch import Tensor

from scorl.learner.batch import MicroBatch
from scorl.seeds import derive
from scorl.trajectory import Credit, Trajectory

__all__ = ["Carried", "find_misplaced"]


@dataclass(frozen=True)
class Carried:
    """What a chunk of a micro-batch carries, on the host; the first two are [tokens], the others [responses]."""

    token: Tensor
    response: Tensor
    """Which of the responses it belongs to, counted from the first of the chunk."""
    problem: Tensor
    place: Tensor
    length: Tensor
    advantage: Tensor
    beta: Tensor
    imitation: Tensor

    @classmethod
    def of(cls, chunk: MicroBatch) -> Carried:
        """Those of a chunk that lies on the host."""
        same = {field.name: getattr(chunk, field.name) for field in fields(cls) if field.name != "token"}
        return cls(token=chunk.target[chunk.prediction], **same)


def find_misplaced(chunks: Sequence[Carried], trained: Sequence[tuple[Trajectory, int, Credit]]) -> list[str]:
    """What chunks carry otherwise than the responses that were to be trained say, with the first response of each kind.

    Args:
        chunks: in their order.
        trained: the responses by trajectory and place, with their credits, in the order of the chunks.
    """
    if not chunks:
        return [f"its {len(trained)} responses, of which there are none"] if trained else []
    said = _said(trained)
    found = {field.name: torch.cat([getattr(chunk, field.name) for chunk in chunks]) for field in fields(Carried)}
    # Each chunk counts its own responses from 0.
    before = torch.tensor([0, *(len(chunk.length) for chunk in chunks[:-1])]).cumsum(0)
    tokens = torch.tensor([len(chunk.response) for chunk in chunks])
    found["response"] = found["response"] + before.repeat_interleave(tokens)
    if len(found["problem"]) != len(trained):
        return [f"the number of responses: {len(found['problem'])} of {len(trained)}"]
    if len(found["token"]) != len(said.token):
        return [f"the number of tokens: {len(found['token'])} of {len(said.token)}"]
    misplaced = []
    for name, value in found.items():
        right = getattr(said, name)
        if not torch.equal(value, right):
            first = int((value != right).nonzero()[0])
            trajectory, place, _ = trained[int(said.response[first]) if len(value) == len(said.token) else first]
            misplaced.append(f"`{name}` at {trajectory.name(place)}")
    return misplaced


def _said(trained: Sequence[tuple[Trajectory, int, Credit]]) -> Carried:
    """What one chunk of all responses would carry."""
    responses = [trajectory.responses[place] for trajectory, place, _ in trained]
    told = [(credit.advantage, credit.beta, credit.imitation) for *_, credit in trained]
    credits = torch.tensor(told, dtype=torch.float32).reshape(-1, 3)
    names = [trajectory.problem.id for trajectory, *_ in trained]
    numbers = {name: derive(name) for name in set(names)}
    length = torch.tensor([len(response.ids) for response in responses])
    return Carried(
        token=torch.tensor(list(chain.from_iterable(response.ids for response in responses))),
        response=torch.arange(len(responses)).repeat_interleave(length),
        problem=torch.tensor([numbers[name] for name in names]),
        place=torch.tensor([place for _, place, _ in trained]),
        length=length,
        advantage=credits[:, 0],
        beta=credits[:, 1],
        imitation=credits[:, 2],
    )
