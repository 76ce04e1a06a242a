"""An engine with canned answers: for tests, documents, and for trying a recipe without a model.

engine = ScriptedEngine(chat, ["4", "5"])                            # the seed picks one
engine = ScriptedEngine(chat, lambda prompt, seed: "5" if "error" in prompt else "4")
engine = ScriptedEngine.load_answers(chat, Path("answers.jsonl"))    # {"prompt_contains", "response"}
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from scorl.engines.engine import Arithmetic, Request, Sample
from scorl.engines.pieces import ShownText
from scorl.errors import UserError, nearest
from scorl.model.chat import Chat
from scorl.text_files import check_values, parse_json, read_text

__all__ = ["ScriptedEngine"]

_KEYS = ("prompt_contains", "response")


@dataclass(frozen=True, eq=False)
class ScriptedEngine:
    """Gives written answers, each with probability 1, which no learner is asked to agree with."""

    arithmetic: ClassVar[Arithmetic] = "none"
    chat: Chat
    answer: Callable[[str, int], str] | Sequence[str]
    """The response to (the whole prompt as text, special tokens included; the seed), or a row of responses of
    which the seed picks one. A response may contain an end token; it ends there."""

    batch_size: int = 256
    """As of other engines; nothing is saved by it here."""

    @classmethod
    def load_answers(cls, chat: Chat, path: Path) -> ScriptedEngine:
        """An engine that answers from a JSONL file of `{"prompt_contains": ..., "response": ...}`.

        The first line whose `prompt_contains` occurs in the prompt decides; lines with the same
        `prompt_contains` are alternatives, of which the seed picks one. A second prompt holds the whole
        first turn, so lines for later turns come first. An empty `prompt_contains` answers everything.

        Raises:
            UserError: the file cannot be read, or a line has another shape; when sampling, no line fits.
        """
        answers = _read_answers(path)

        def look_up(prompt: str, seed: int) -> str:
            for part, responses in answers.items():
                if part in prompt:
                    return responses[seed % len(responses)]
            raise UserError(
                f"{path}: no line's prompt_contains occurs in the prompt that ends in {prompt[-120:]!r};"
                " a last line with an empty prompt_contains answers everything"
            )

        return cls(chat, look_up)

    def sample(
        self, requests: Sequence[Request], *, temperature: float, max_tokens: int, keep: bool = False
    ) -> list[Sample]:
        """One written answer for each request, in order; at temperature 0 every request has seed 0."""
        return [self._sample_one(r.prompt_ids, r.seed if temperature > 0 else 0, max_tokens) for r in requests]

    def stream(
        self, request: Request, show: Callable[[str], None], *, temperature: float, max_tokens: int, keep: bool = False
    ) -> Sample:
        """The written answer, token by token."""
        (sample,) = self.sample([request], temperature=temperature, max_tokens=max_tokens)
        text = ShownText(self.chat, show)
        for n in range(1, len(sample.ids) + 1):
            text.grow(sample.ids[:n], ended=n == len(sample.ids))
        return sample

    def _sample_one(self, prompt_ids: tuple[int, ...], seed: int, max_tokens: int) -> Sample:
        ids = self.chat.reply(self._respond(self.chat.show(prompt_ids), seed))
        end = self.chat.find_end(ids) or len(ids)
        ids = ids[: min(end, max_tokens)]
        return Sample(ids, (0.0,) * len(ids), "stop" if end <= max_tokens else "length")

    def _respond(self, prompt: str, seed: int) -> str:
        if callable(self.answer):
            return self.answer(prompt, seed)
        return self.answer[seed % len(self.answer)]


def _read_answers(path: Path) -> dict[str, list[str]]:
    """The responses by `prompt_contains`, in the order of the file."""
    try:
        lines = read_text(path).split("\n")
    except OSError as error:
        raise UserError(f"cannot read the answers of the scripted engine: {path}: {error}") from error
    answers: dict[str, list[str]] = {}
    for number, line in enumerate(lines, start=1):
        if line.strip():
            part, response = _parse_line(line, f"{path}, line {number}")
            answers.setdefault(part, []).append(response)
    if not answers:
        raise UserError(f'{path} holds no answers: write lines of {{"prompt_contains": "", "response": "..."}}')
    return answers


def _parse_line(line: str, where: str) -> tuple[str, str]:
    row = parse_json(line, where)
    check_values(row, where)
    if not isinstance(row, dict):
        raise UserError(f'{where}: want {{"prompt_contains": ..., "response": ...}}, got {line.strip()!r:.60}')
    for key in row.keys() - set(_KEYS):
        raise UserError(f"{where}: unknown key '{key}': {nearest(key, _KEYS)}")
    for key in _KEYS:
        if not isinstance(row.get(key), str):
            raise UserError(f"{where}: '{key}' must be a string, got {row.get(key)!r:.60}")
    return row["prompt_contains"], row["response"]
