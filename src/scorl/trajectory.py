"""The nouns: what is asked, what was answered, what the verifier said, and what is to be learned from it.

Everything here is frozen. A name has one meaning: *reward* is the verifier's word and nothing else; what an
objective makes of it is the *advantage* in a `Credit`.

    problem = Problem(id="countdown-7", prompt=(user("reach 16 with 7 3 5"),), answer={"target": 16, ...})
    attempt = Attempt(turn=0, prompt_ids=(1, 8, ...), ids=(40, 41, 2), logprobs=(-0.1, ...), text="7*3=21 21-5=16",
                      finish="stop", verdict=Verdict(1.0, "correct", "", answer="7*3=21 21-5=16"), policy=0)
    trajectory = Trajectory(problem, sample=0, attempts=(attempt, second))
    group = [trajectory, ...]          # the samples of one problem, in the order of `sample`
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict

__all__ = [
    "Attempt",
    "Credit",
    "Finish",
    "Group",
    "Message",
    "Problem",
    "TrainingExample",
    "Trajectory",
    "Verdict",
    "user",
]

Finish = Literal["stop", "length"]
"""Why a sample ended: the model wrote an end token, or it ran into the token limit."""


class Message(TypedDict):
    """One chat message in the form that Hugging Face chat templates take."""

    role: str
    content: str


def user(content: str) -> Message:
    """A chat message from the user."""
    return Message(role="user", content=content)


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem: its first prompt as chat messages, and what the verifier needs to know."""

    id: str
    prompt: tuple[Message, ...]
    answer: Any = None
    """What the task's verifier compares with: a string for mathematics, a mapping for countdown."""
    solution: str | None = None
    """A reference solution as an assistant would write it; `supervised` learns from it."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """Further columns of the data set, passed on to Python reward functions."""
    first_attempt: str | None = None
    """A first attempt that comes with the problem: the model repairs it, and writes only the later ones."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the verifier said about one response."""

    reward: float
    """r(y, y*): 1.0 right, 0.0 wrong; Python reward functions may return other numbers."""
    outcome: str
    """One word: `correct`, `incorrect`, `unparsable`, `timeout`, `error`; of programs `passed` and `failed` in place
    of the first two, `memory`, `forbidden`."""
    reason: str = ""
    """Why, for people; empty where there is nothing to say."""
    answer: str | None = None
    """The final answer found in the response; two attempts with equal answers count as unchanged."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One judged response of the model, as the token ids that it saw and wrote."""

    turn: int
    """0 for the first attempt, 1 for the second, ..."""
    prompt_ids: tuple[int, ...]
    """The whole context; that of turn t + 1 begins with this attempt's `prompt_ids + ids`."""
    ids: tuple[int, ...]
    """What was sampled, the end token included where one was written."""
    logprobs: tuple[float, ...]
    """The sampler's log-probability of each of `ids`, at the sampling temperature."""
    text: str
    finish: Finish
    verdict: Verdict
    policy: int = 0
    """How many updates the policy had seen when it wrote this."""
    given: bool = False
    """Whether another policy wrote it, or the problem brought it: context, never trained on."""
    critiques: tuple[str, ...] = ()
    """What the model wrote between the attempt before and this one that is no attempt; it stands in `prompt_ids`."""

    @property
    def reward(self) -> float:
        """r(y, y*), the verifier's word."""
        return self.verdict.reward

    @property
    def right(self) -> bool:
        """Whether the verifier's reward counts as correct (at least one half)."""
        return self.verdict.reward >= 0.5


@dataclass(frozen=True, slots=True)
class Trajectory:
    """All attempts at one problem in the order of their turns; every problem gets all its turns."""

    problem: Problem
    sample: int
    attempts: tuple[Attempt, ...]
    branch: int = 0
    """Which of the continuations of the same first attempt; trajectories of one `sample` share it."""


Group = Sequence[Trajectory]
"""The samples of one problem, in the order of `sample`."""


@dataclass(frozen=True, slots=True)
class Credit:
    """What one attempt teaches: the narrow waist between objectives and learner.

    The learner descends, over the attempt's tokens y_j,
    `-advantage * log pi(y_j) + beta * KL_j(pi || pi_ref) - imitation * log pi(y_j)`.
    """

    advantage: float = 0.0
    beta: float = 0.0
    imitation: float = 0.0


@dataclass(frozen=True, slots=True)
class TrainingExample:
    """A trajectory and the credit of each of its attempts."""

    trajectory: Trajectory
    credits: tuple[Credit, ...]
