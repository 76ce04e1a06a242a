"""One request: ask the upstream, correct, ask again, as often as there are samples; then count the votes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from scorl.engines.openai.reading import Reply
from scorl.inference.solving import Vote, count_votes
from scorl.serve.protocol import ChatRequest, NoAnswerError
from scorl.serve.settings import ServeSettings
from scorl.serve.upstream import TokenSum, Upstream
from scorl.trajectory import Message, Problem, Role

__all__ = ["Corrected", "Said", "Tell", "correct"]

Part = Literal["reasoning_content", "content"]
"""Of a message: what came before the final answer, as reasoning models give it, or the final answer."""
Tell = Callable[[Part, str], None]


@dataclass(frozen=True)
class Said:
    """One response of a conversation."""

    role: Role
    reply: Reply

    def as_dict(self) -> dict[str, str]:
        """As the field `scorl` has it."""
        return {"role": self.role, "content": self.reply.text, "finish_reason": self.reply.finish}


@dataclass(frozen=True)
class Corrected:
    """What a request is answered with."""

    responses: Sequence[Said]
    """Of the conversation that counts."""
    final: Reply
    votes: Sequence[Vote]
    usage: TokenSum
    samples: int

    @property
    def reasoning(self) -> str:
        """What came before the final answer."""
        return "\n\n".join(said.reply.text for said in self.responses if said.reply is not self.final)

    def as_dict(self) -> dict[str, Any]:
        """The field `scorl`."""
        votes = [{"answer": vote.answer, "samples": vote.samples} for vote in self.votes]
        return {"attempts": [said.as_dict() for said in self.responses], "samples": self.samples, "votes": votes}


async def correct(settings: ServeSettings, upstream: Upstream, request: ChatRequest, tell: Tell | None) -> Corrected:
    """The answer to a request; `tell` is told its parts as they are written, those of several samples once they voted.

    Raises:
        NoAnswerError: the upstream gives none.
    """
    if settings.samples > 1 and request.temperature == 0:
        raise NoAnswerError(
            400,
            f"temperature: at 0 all {settings.samples} samples are the same, and there is nothing to vote on",
            param="temperature",
        )
    heard = tell if settings.samples == 1 else None
    asked = [_converse(settings, upstream, request, number, heard) for number in range(settings.samples)]
    conversations = await _gather(asked)
    finals = [_final(settings, responses) for responses in conversations]
    usage = TokenSum()
    for said in (said for responses in conversations for said in responses):
        usage.add(said.reply)
    answers = [settings.find_answer(final.text) for final in finals] if settings.samples > 1 else []
    votes = count_votes(answers, settings.name_answer)
    winner = votes[0].first if votes else 0
    corrected = Corrected(conversations[winner], finals[winner], votes, usage, settings.samples)
    if tell and heard is None:
        tell("reasoning_content", corrected.reasoning)
    if tell and (heard is None or corrected.final is not corrected.responses[-1].reply):
        tell("content", corrected.final.text)  # a verification called an earlier attempt right
    return corrected


async def _gather(asked: Sequence[Any]) -> list[list[Said]]:
    """All conversations; where one fails, the others end with it."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one) for one in asked]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


async def _converse(
    settings: ServeSettings, upstream: Upstream, request: ChatRequest, number: int, tell: Tell | None
) -> list[Said]:
    """One conversation; it ends where a verification says that the attempt before it is right."""
    messages: list[Any] = request.conversation
    problem = Problem("request", tuple(Message(role=m["role"], content=m["content"]) for m in messages))
    fields = request.sampling | ({} if request.seed is None else {"seed": request.seed + number})
    responses: list[Said] = []
    for turn in (None, *settings.turns):
        if turn is not None:
            messages = [
                *messages,
                Message(role="assistant", content=responses[-1].reply.text),
                Message(role="user", content=turn.ask(problem)),
            ]
        part: Part = "content" if len(responses) == len(settings.turns) else "reasoning_content"
        if tell and part == "reasoning_content" and responses:
            tell(part, "\n\n")
        reply = await upstream.ask(settings.model or request.model, messages, fields, _to(tell, part))
        responses.append(Said(turn.role if turn else "attempt", reply))
        if turn is not None and turn.role == "verification" and turn.claim(reply.text):
            break
    return responses


def _to(tell: Tell | None, part: Part) -> Callable[[str], None] | None:
    return None if tell is None else lambda piece: tell(part, piece)


def _final(settings: ServeSettings, responses: Sequence[Said]) -> Reply:
    """The last attempt; what follows it, if anything, is the verification that ended the conversation."""
    return next(said.reply for said in reversed(responses) if said.role == "attempt")
