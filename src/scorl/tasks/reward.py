"""Python reward functions as judges, with TRL's signature: `reward_func(prompts, completions, **columns)`.

For string prompts, prompts and completions are strings; for chat prompts they are lists of messages, a
completion being `[{"role": "assistant", "content": ...}]`. Every further column of the data comes as a list
under its name. The function returns one number for each completion (None counts as 0). What it raises is its
own fault and propagates.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from scorl.errors import UserError, nearest
from scorl.trajectory import Problem, Verdict
from scorl.verifiers import Judge
from scorl.verifiers.extract_answer import extract_answer

__all__ = ["judge_by", "load_function"]

RewardFunction = Callable[..., Sequence[float | None]]


def load_function(name: str) -> RewardFunction:
    """The function that `module:function` or `file.py:function` names.

    Raises:
        UserError: there is no such module, file or function.
    """
    place, _, function = name.rpartition(":")
    if not place or not function:
        raise UserError(f"verifier '{name}': not of the form module:function or file.py:function")
    module = import_file(Path(place).expanduser()) if place.endswith(".py") else import_name(place)
    reward: RewardFunction | None = getattr(module, function, None)
    if not callable(reward):
        functions = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise UserError(f"verifier '{name}': {place} has no function '{function}': {nearest(function, functions)}")
    return reward


def import_name(name: str) -> ModuleType:
    """A module that Python finds."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise UserError(f"verifier '{name}': no such module ({error}); a file is named as path/file.py") from error


def import_file(path: Path) -> ModuleType:
    """A module from a file, known to `sys.modules` so that dataclasses and pickles in it work."""
    if not path.is_file():
        raise UserError(f"verifier: no such file: {path}")
    spec = importlib.util.spec_from_file_location(f"scorl_reward_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def judge_by(function: RewardFunction, name: str, chat: bool) -> Judge:
    """A judge that asks a reward function, which sees chat messages or strings."""

    def judge(pairs: Sequence[tuple[Problem, str]]) -> list[Verdict]:
        if not pairs:
            return []
        prompts = [list(problem.prompt) if chat else problem.prompt[0]["content"] for problem, _ in pairs]
        completions = [[{"role": "assistant", "content": text}] if chat else text for _, text in pairs]
        rewards = function(
            prompts=prompts, completions=completions, **gather_columns([problem for problem, _ in pairs])
        )
        if len(rewards) != len(pairs):
            raise UserError(f"{name} returned {len(rewards)} rewards for {len(pairs)} completions")
        return [make_verdict(reward, text) for reward, (_, text) in zip(rewards, pairs, strict=True)]

    return judge


def gather_columns(problems: Sequence[Problem]) -> dict[str, list[Any]]:
    """The columns of the problems as lists; None where a row lacks one."""
    names = dict.fromkeys(name for problem in problems for name in problem.columns)
    return {name: [problem.columns.get(name) for problem in problems] for name in names}


def make_verdict(reward: float | None, text: str) -> Verdict:
    """A number as a verdict; the answer is the final one, or the whole response."""
    value = 0.0 if reward is None else float(reward)
    reason = "the reward function returned None" if reward is None else ""
    return Verdict(value, "correct" if value >= 0.5 else "incorrect", reason, extract_answer(text) or text.strip())
