"""The nouns: problem, response, verdict, trajectory, and the credit that each response is trained with.

Everything here is frozen. A name has one meaning: *reward* is the verifier's word and nothing else; what an
objective makes of it is the *advantage* in a `Credit`.

    problem = Problem(id="countdown-7", prompt=(user("reach 16 with 7 3 5"),), answer={"target": 16, ...})
    first = Response(prompt_ids=(1, 8, ...), ids=(40, 41, 2), logprobs=(-0.1, ...), text="7*3=21 21-5=16",
                     finish="stop", verdict=Verdict(1.0, "correct", "", answer="7*3=21 21-5=16"))
    check = Response(..., role="verification", verdict=Verdict(1.0, "correct", "", answer="right"))
    trajectory = Trajectory(problem, sample=0, responses=(first, check, second))
    trajectory.attempts                # (first, second)
    group = [trajectory, ...]          # the samples of one problem, in the order of `sample`
    TrainingExample(trajectory, (Credit(0.5, beta=0.01), Credit(), Credit(1.0, beta=0.01)))
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict

__all__ = [
    "RIGHT",
    "AttemptText",
    "Credit",
    "Finish",
    "Group",
    "Message",
    "Problem",
    "Response",
    "Role",
    "TrainingExample",
    "Trajectory",
    "Verdict",
    "user",
]

RIGHT = 0.5
"""A reward of at least so much counts as right."""

Finish = Literal["stop", "length"]
"""Why a sample ended: the model wrote an end token, or it ran into the token limit."""


Role = Literal["attempt", "verification", "critique"]
"""What a response is: an answer to the problem, a claim whether the answer before it is right, or a text about it."""


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
    split_key: str | None = None
    """What splits by hash go by, where the recipe's words around the question are not to matter; None: the prompt."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the verifier said about one response.

    About a verification it says whether what that claims agrees with the verdict of the attempt before it.
    """

    reward: float
    """r(y, y*): 1.0 right, 0.0 wrong; Python reward functions may return other numbers."""
    outcome: str
    """One word: `correct`, `incorrect`, `unparsable`, `timeout`, `error`; of programs `passed` and `failed` in place
    of the first two, `memory`, `forbidden`."""
    reason: str = ""
    """Why, for people; empty where there is nothing to say."""
    answer: str | None = None
    """The final answer found in the response; two attempts with equal answers count as unchanged. Of a verification
    what it claims: `right` or `wrong`."""


@dataclass(frozen=True, slots=True)
class Response:
    """One response of the model, as the token ids that it saw and wrote."""

    prompt_ids: tuple[int, ...]
    """The whole context; that of the next response begins with this one's `prompt_ids + ids`."""
    ids: tuple[int, ...]
    """What was sampled, the end token included where one was written."""
    logprobs: tuple[float, ...]
    """The sampler's log-probability of each of `ids`, at the sampling temperature."""
    text: str
    finish: Finish
    verdict: Verdict | None = None
    """None: nobody judged it, as nobody judges a critique."""
    role: Role = "attempt"
    policy: int = 0
    """How many updates the policy had seen when it wrote this."""
    offline: bool = False
    """Whether another policy wrote it, the problem brought it, or its reward chose it: context, never trained on."""
    counted: int | None = None
    """Its tokens as an endpoint counts them, whose ids are none; -1: it does not say."""

    @property
    def tokens(self) -> int | None:
        """How many tokens it took; None: nobody knows, as of a text that was written elsewhere."""
        if self.counted is not None:
            return self.counted if self.counted >= 0 else None
        return len(self.ids) if self.ids or not self.text else None

    @property
    def reward(self) -> float:
        """r(y, y*), the verifier's word.

        Raises:
            ValueError: it was not judged.
        """
        if self.verdict is None:
            raise ValueError(f"this {self.role} has not been judged")
        return self.verdict.reward

    @property
    def right(self) -> bool:
        """Whether the verifier's reward counts as correct (at least one half)."""
        return self.reward >= RIGHT


class AttemptText(str):
    """An attempt's text as judges get it; those that want to know more of the attempt find it here."""

    __slots__ = ("number", "response")

    response: Response
    number: int
    """Which attempt of its trajectory it is, from 1."""

    def __new__(cls, response: Response, number: int) -> AttemptText:
        """The text of a response."""
        text = super().__new__(cls, response.text)
        text.response, text.number = response, number
        return text


@dataclass(frozen=True, slots=True)
class Trajectory:
    """All responses to one problem in the order of the conversation; every problem gets all its turns.

    A response has two numbers: its place in the conversation (in `responses`), and that of its attempt (in `attempts`).
    """

    problem: Problem
    sample: int
    responses: tuple[Response, ...]
    branch: int = 0
    """Which of the continuations of the same first attempt; trajectories of one `sample` share it."""
    dropped_tokens: int = 0
    """Of other first attempts to the problem, which were sampled and not chosen."""

    @property
    def attempts(self) -> tuple[Response, ...]:
        """The answers to the problem, in order."""
        return tuple(response for response in self.responses if response.role == "attempt")

    @property
    def reached(self) -> tuple[Response, ...]:
        """What inference would have come to: a verification that says `right` ends the conversation."""
        for place, response in enumerate(self.responses, 1):
            if response.role == "verification" and response.verdict and response.verdict.answer == "right":
                return self.responses[:place]
        return self.responses

    @property
    def final(self) -> Response:
        """The answer that inference ends with: the last attempt among `reached`."""
        return next(response for response in reversed(self.reached) if response.role == "attempt")

    @property
    def labels(self) -> tuple[str, ...]:
        """A short name for each response: `t1 v1 t2` are two attempts and the verification of the first."""
        labels, attempt = [], 0
        for response in self.responses:
            attempt += response.role == "attempt"
            labels.append(LABELS[response.role] + str(attempt))
        return tuple(labels)

    def name(self, place: int) -> str:
        """What to call a response in a sentence."""
        return f"problem {self.problem.id}, sample {self.sample}, {self.labels[place]}"


LABELS: Mapping[Role, str] = {"attempt": "t", "verification": "v", "critique": "c"}
"""How metrics and files abbreviate roles; `t` is the paper's."""

Group = Sequence[Trajectory]
"""The samples of one problem, in the order of `sample`."""


@dataclass(frozen=True, slots=True)
class Credit:
    """What one response is trained with: the narrow waist between objectives and learner.

    The learner descends, over the response's tokens y_j,
    `-advantage * log pi(y_j) + beta * KL_j(pi || pi_ref) - imitation * log pi(y_j)`.
    """

    advantage: float = 0.0
    beta: float = 0.0
    imitation: float = 0.0


@dataclass(frozen=True, slots=True)
class TrainingExample:
    """A trajectory and the credit of each of its responses; an empty credit trains nothing."""

    trajectory: Trajectory
    credits: tuple[Credit, ...]

    @classmethod
    def of_attempts(cls, trajectory: Trajectory, credits: Iterable[Credit]) -> TrainingExample:
        """The attempts' credits in order, and an empty one for every other response.

        Raises:
            ValueError: there are more or fewer credits than attempts.
        """
        places = [place for place, response in enumerate(trajectory.responses) if response.role == "attempt"]
        by_place = dict(zip(places, credits, strict=True))
        return cls(trajectory, tuple(by_place.get(place, Credit()) for place in range(len(trajectory.responses))))
