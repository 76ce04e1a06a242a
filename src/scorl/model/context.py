"""Whether conversations fit into a model's positions, before any of them is sampled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from scorl.errors import UserError
from scorl.model.chat import Chat
from scorl.settings import ScriptedSettings
from scorl.tasks.turns import Turn
from scorl.trajectory import Problem

__all__ = ["check_context", "max_positions", "usable_positions"]


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
    chat: Chat, problems: Sequence[Problem], turns: Sequence[Turn], max_tokens: int, positions: int | None
) -> str | None:
    """A sentence on problems whose responses might not fit, prompts and all; None: all do.

    Args:
        chat: of the model.
        problems: as they are asked, or enough of them.
        turns: behind the first response.
        max_tokens: of each response.
        positions: the model's; None: it names none.

    Raises:
        UserError: none of the problems leaves room for a token of the last response.
    """
    if positions is None or not problems:
        return None
    prompts = [_prompt_tokens(chat, problem, turns) for problem in problems]
    written = [(problem.first_attempt is None) + len(turns) for problem in problems]
    hopeless = sum(prompt + count > positions for prompt, count in zip(prompts, written, strict=True))
    if hopeless == len(problems):
        raise UserError(
            f"no problem fits into the model's context of {positions} positions: what is asked takes {_range(prompts)}"
            f" tokens by itself, so that there is no room for {max(written)} responses; take a model with a longer"
            " context, or shorter prompts"
        )
    over = [
        (prompt, count)
        for prompt, count in zip(prompts, written, strict=True)
        if prompt + count * max_tokens > positions
    ]
    if not over:
        return None
    longest, count = max(over, key=lambda pair: pair[0] + pair[1] * max_tokens)
    fitting = (positions - longest) // count
    remedy = f"; max_tokens={fitting} would leave room for all" if fitting > 0 else ""
    none_at_all = f", {hopeless} of them not with a single token each" if hopeless else ""
    return (
        f"context: of {len(problems)} problems {len(over)} ({len(over) / len(problems):.0%}) might not fit into the"
        f" model's {positions} positions: prompts of {longest} tokens and {count} responses of up to {max_tokens}"
        f" are {longest + count * max_tokens}{none_at_all}; what does not fit is cut off or left empty, and"
        f" counts as wrong{remedy}"
    )


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
