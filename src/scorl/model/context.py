"""Whether conversations fit into a model's positions, before any of them is sampled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from scorl.errors import UserError
from scorl.model.chat import Chat
from scorl.settings import Sampling, ScriptedSettings
from scorl.tasks.turns import Turn, number_responses
from scorl.trajectory import Problem

__all__ = ["check_context", "check_solutions", "max_positions", "usable_positions"]


def max_positions(config: Any) -> int | None:
    """The longest context in tokens that a transformers configuration names: of its text, where it has images too."""
    limit: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
    return limit


def usable_positions(engine: object, config: Any) -> int | None:
    """As `max_positions`, for an engine with these settings: canned answers need none, and vLLM may be given fewer."""
    if isinstance(engine, ScriptedSettings):
        return None
    return getattr(engine, "max_model_len", None) or max_positions(config)


def check_context(
    chat: Chat, problems: Sequence[Problem], turns: Sequence[Turn], sampling: Sampling, positions: int | None
) -> str | None:
    """A sentence on problems whose responses might not fit, prompts and all; None: all do.

    Args:
        chat: of the model.
        problems: as they are asked, or enough of them.
        turns: behind the first response.
        sampling: says how long responses may be.
        positions: the model's; None: it names none.

    Raises:
        UserError: none of the problems leaves room for a token of the last response.
    """
    if positions is None or not problems:
        return None
    prompts = [_prompt_tokens(chat, problem, turns) for problem in problems]
    every = [sampling.limit(attempt) for attempt in number_responses(turns)]
    written = [every[problem.first_attempt is not None :] for problem in problems]
    hopeless = sum(prompt + len(limits) > positions for prompt, limits in zip(prompts, written, strict=True))
    if hopeless == len(problems):
        raise UserError(
            f"no problem fits into the model's context of {positions} positions: what is asked takes {_range(prompts)}"
            f" tokens by itself, so that there is no room for {max(map(len, written))} responses; take a model with a"
            " longer context, or shorter prompts"
        )
    asked = list(zip(prompts, written, strict=True))
    over = [(prompt, limits) for prompt, limits in asked if prompt + sum(limits) > positions]
    if not over:
        return None
    longest, limits = max(over, key=lambda pair: pair[0] + sum(pair[1]))
    each = " + ".join(map(str, limits if len(set(limits)) > 1 else limits[:1]))
    none_at_all = f", {hopeless} of them not with a single token each" if hopeless else ""
    return (
        f"context: of {len(problems)} problems {len(over)} ({len(over) / len(problems):.0%}) might not fit into the"
        f" model's {positions} positions: prompts of {longest} tokens and {len(limits)} responses of up to"
        f" {each} are {longest + sum(limits)}{none_at_all}; what does not fit is cut off or left empty, and counts as"
        f" wrong{_advise(sampling, positions - longest, sum(limits))}"
    )


def check_solutions(chat: Chat, problems: Sequence[Problem], positions: int | None) -> None:
    """Refuse a reference solution that goes beyond the model's positions, where a model may know none.

    Args:
        chat: of the model.
        problems: whose solutions are learned from.
        positions: the model's; None: it names none.

    Raises:
        UserError: a problem's solution does not fit behind its prompt.
    """
    if positions is None:
        return
    for problem in problems:
        needed = len(chat.prompt(problem.prompt)) + len(chat.reply(problem.solution or ""))
        if needed > positions:
            raise UserError(
                f"problem {problem.id}: its prompt and its reference solution take {needed} tokens, and the model's"
                f" context has {positions} positions; leave the problem out, or take a model with a longer context"
            )


def _advise(sampling: Sampling, room: int, asked: int) -> str:
    """Limits that would fit, as far from each other as these: of `room` tokens where `asked` may be written."""
    old = sampling.max_tokens
    fitting = [limit * room // asked for limit in ([old] if isinstance(old, int) else old)]
    new = ",".join(map(str, fitting)) if isinstance(old, int) else f"[{','.join(map(str, fitting))}]"
    return f"; max_tokens={new} would leave room for all" if min(fitting) > 0 else ""


def _prompt_tokens(chat: Chat, problem: Problem, turns: Sequence[Turn]) -> int:
    """Tokens of a conversation but for the responses that are written: all that is asked, and a first attempt that the
    problem brings.
    """
    asked = sum(message["role"] == "user" for message in problem.prompt)
    brought = () if problem.first_attempt is None else chat.reply(problem.first_attempt)
    between = (len(chat.follow((), (), turn.ask(problem), asked + place)) for place, turn in enumerate(turns))
    return len(chat.prompt(problem.prompt)) + len(brought) + sum(between)


def _range(numbers: Sequence[int]) -> str:
    least, most = min(numbers), max(numbers)
    return str(least) if least == most else f"{least} to {most}"
