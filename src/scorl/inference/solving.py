"""One question of the user's own: asked, corrected, answered, heard while it is written, voted on.

group = solve(engine, problem, turns, Sampling(0.0, 256))              # of one sample
group = solve(engine, problem, turns, sampling, listener=transcript)   # which hears it
votes = count_votes([extract_answer(final_attempt(t, turns).text) for t in group])
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from scorl.engines.engine import Arithmetic, Dialogue, Engine, Request, Sample, Streaming
from scorl.rollout import Draws, converse
from scorl.seeds import derive
from scorl.settings import Sampling
from scorl.tasks.turns import Turn
from scorl.trajectory import Finish, Group, Problem, Response, Trajectory

__all__ = ["Listener", "Vote", "count_votes", "final_attempt", "solve"]


class Listener(Protocol):
    """Who hears responses as they are written, one after the other."""

    def begin(self) -> None:
        """A response begins."""
        ...

    def hear(self, piece: str) -> None:
        """Some of its text, as the model wrote it."""
        ...

    def end(self, finish: Finish) -> None:
        """It has ended, and why."""
        ...


class Vote(NamedTuple):
    """An answer, how many samples gave it, and the place of the first of them."""

    answer: str
    samples: int
    first: int


def solve(
    engine: Engine,
    problem: Problem,
    turns: Sequence[Turn],
    sampling: Sampling,
    *,
    samples: int = 1,
    seed: int = 0,
    listener: Listener | None = None,
    progress: Callable[[int], None] = lambda written: None,
) -> Group:
    """The trajectories of one problem; nothing is judged.

    Args:
        engine: writes the responses.
        problem: what is asked.
        turns: what follows the first attempt.
        sampling: temperature and token limits of responses.
        samples: how many trajectories, drawn at once.
        seed: of draws at a temperature above 0.
        listener: hears the responses of a single sample, in pieces where the engine can.
        progress: is told the responses that there are, whenever a turn is over and another follows.
    """
    if listener is not None and samples == 1:
        engine = HeardEngine(engine, listener)
    draws = Draws(lambda asked, sample, place: derive(seed, "solve", sample, place), samples, sampling)
    (group,) = converse(engine, [problem], turns, draws, progress)
    return group


def final_attempt(trajectory: Trajectory, turns: Sequence[Turn]) -> Response:
    """The attempt that counts: the last one, unless a verification before it says that the one until then is right."""
    attempt = trajectory.responses[0]
    for turn, response in zip(turns, trajectory.responses[1:], strict=True):
        if response.role == "verification" and turn.claim(response.text):
            return attempt
        attempt = response if response.role == "attempt" else attempt
    return attempt


def count_votes(answers: Sequence[str | None], name: Callable[[str], str] = str) -> list[Vote]:
    """The different answers, the most frequent first, and of equally frequent ones the one given first.

    Args:
        answers: of the samples; None: there is none, and no vote.
        name: the same for equal answers.
    """
    places: dict[str, list[int]] = {}
    for place, answer in enumerate(answers):
        if answer is not None:
            places.setdefault(name(answer), []).append(place)
    votes = [Vote(str(answers[same[0]]), len(same), same[0]) for same in places.values()]
    return sorted(votes, key=lambda vote: -vote.samples)


@dataclass(frozen=True)
class HeardEngine:
    """An engine whose responses somebody hears while they are written."""

    engine: Engine
    listener: Listener

    @property
    def chat(self) -> Dialogue:
        """The engine's own."""
        return self.engine.chat

    @property
    def arithmetic(self) -> Arithmetic:
        """The engine's own."""
        return self.engine.arithmetic

    @property
    def batch_size(self) -> int:
        """One after the other."""
        return 1

    def sample(
        self, requests: Sequence[Request], *, temperature: float, max_tokens: int, keep: bool = False
    ) -> list[Sample]:
        """See `scorl.engines.engine.Engine.sample`."""
        return [self._write(request, temperature, max_tokens, keep) for request in requests]

    def _write(self, request: Request, temperature: float, max_tokens: int, keep: bool) -> Sample:
        self.listener.begin()
        if isinstance(self.engine, Streaming):
            sample = self.engine.stream(
                request, self.listener.hear, temperature=temperature, max_tokens=max_tokens, keep=keep
            )
        else:
            (sample,) = self.engine.sample([request], temperature=temperature, max_tokens=max_tokens, keep=keep)
            self.listener.hear(self.engine.chat.text(sample.ids))
        self.listener.end(sample.finish)
        return sample
