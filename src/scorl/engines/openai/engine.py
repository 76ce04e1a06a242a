"""The engine `openai`: asks any endpoint that speaks OpenAI's protocol, and keeps every answer.

Its prompts are messages and not tokens (`MessageDialogue`), so there is nothing here to learn from: it measures.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Generator, Sequence, Set
from contextlib import closing
from functools import partial
from typing import ClassVar

from scorl.engines.engine import Arithmetic, Request, Sample
from scorl.engines.openai.endpoint import Endpoint
from scorl.engines.openai.journal import Answer, Journal, Question, default_journal
from scorl.engines.openai.messages import MessageDialogue
from scorl.engines.usage import Usage
from scorl.errors import UserError
from scorl.settings import OpenAISettings
from scorl.text_files import as_path
from scorl.threads import run_jobs

__all__ = ["OpenAIEngine"]


class OpenAIEngine:
    """A model behind an endpoint.

    Raises:
        UserError: its journal is another file, or cannot be written.
    """

    arithmetic: ClassVar[Arithmetic] = "none"

    def __init__(self, model: str, settings: OpenAISettings) -> None:
        self.chat = MessageDialogue()
        self._settings, self._endpoint = settings, Endpoint(model, settings)
        named = settings.responses
        self._journal = Journal(as_path(named) if named else default_journal(self._endpoint.url, model))
        self._kept_at_start = len(self._journal)
        self._used: dict[str, Answer] = {}
        self._sent: set[str] = set()
        self._told_of_earlier = False
        self._spent = 0
        self._spending = threading.Lock()

    @property
    def batch_size(self) -> int:
        """Requests under way at once."""
        return self._settings.concurrency

    @property
    def usage(self) -> Usage:
        """What the answers took that this engine has given, those of its journal included."""
        answers = self._used.values()
        return Usage(
            requests=len(answers),
            from_journal=len(self._used.keys() - self._sent),
            retries=sum(a.retries for a in answers),
            prompt_tokens=sum(a.prompt_tokens or 0 for a in answers),
            completion_tokens=sum(a.completion_tokens or 0 for a in answers),
            uncounted=sum(a.completion_tokens is None for a in answers),
            seconds=round(sum(a.seconds for a in answers), 3),
            refusals=sum(a.refusal for a in answers),
            truncated=sum(a.finish == "length" for a in answers),
        )

    def describe(self) -> str:
        """Where it asks, and where the answers are kept."""
        kept = f"{self._kept_at_start:,} are there already" if self._kept_at_start else "none is there yet"
        return (
            f"asking {self._endpoint.model} at {self._endpoint.url}; answers are kept in {self._journal.path}: {kept}"
        )

    def sample(
        self, requests: Sequence[Request], *, temperature: float, max_tokens: int, keep: bool = False
    ) -> list[Sample]:
        """One answer for each request, in order; what stands in the journal is not asked again.

        Raises:
            UserError: the endpoint gives no answer, or the budget is used up; the answers until then are kept.
        """
        questions = [self._question(request, temperature, max_tokens) for request in requests]
        keys = [self._key(question) for question in questions]
        missing = {k: q for k, q in zip(keys, questions, strict=True) if self._journal.get(k) is None}
        self._tell_of_earlier(set(keys) - missing.keys())
        self._ask_all(missing)
        return [self._sample(key) for key in keys]

    def stream(
        self, request: Request, show: Callable[[str], None], *, temperature: float, max_tokens: int, keep: bool = False
    ) -> Sample:
        """One answer, its text shown as it comes, or whole where it stands in the journal.

        Raises:
            UserError: as `sample`.
        """
        question = self._question(request, temperature, max_tokens)
        key = self._key(question)
        kept = self._journal.get(key)
        self._tell_of_earlier({key} if kept else set())
        if kept is None:
            self._begin()
            self._spend(key)
            with closing(self._endpoint.stream(question)) as pieces:
                self._keep(key, _show_all(pieces, show))
        elif kept.text:
            show(kept.text)
        return self._sample(key)

    def _question(self, request: Request, temperature: float, max_tokens: int) -> Question:
        return Question.of(self.chat.messages(request.prompt_ids), temperature, max_tokens, request.seed)

    def _key(self, question: Question) -> str:
        return question.key(self._endpoint.url, self._endpoint.model, self._settings.extra_body)

    def _tell_of_earlier(self, keys: Set[str]) -> None:
        """Say once that answers are not asked for: another model may be behind the same name and URL by now."""
        earlier = len(keys - self._sent)
        if earlier and not self._told_of_earlier:
            self._told_of_earlier = True
            warnings.warn(
                f"{earlier:,} answers are taken from {self._journal.path}, where an earlier start kept them: if "
                f"another model answers as {self._endpoint.model} by now, ask anew with engine.responses=NEW_FILE",
                stacklevel=3,
            )

    def _ask_all(self, questions: dict[str, Question]) -> None:
        """Ask what stands in no journal; the very first alone, so that a wrong key is refused once."""
        jobs = [partial(self._ask, key, question) for key, question in questions.items()]
        try:
            if jobs and not self._sent:
                self._begin()
                jobs.pop(0)()
            run_jobs(jobs, min(len(jobs), self._settings.concurrency))
        except UserError as error:
            raise UserError(f"{error}\n{self._describe_kept()}") from None

    def _begin(self) -> None:
        if not self._sent:
            self._endpoint.check()

    def _ask(self, key: str, question: Question) -> None:
        self._spend(key)
        self._keep(key, self._endpoint.ask(question))

    def _spend(self, key: str) -> None:
        """Count a request that is about to be sent.

        Raises:
            UserError: the budget is used up.
        """
        with self._spending:
            for name, used, limit in (
                ("max_requests", len(self._sent), self._settings.max_requests),
                ("max_total_tokens", self._spent, self._settings.max_total_tokens),
            ):
                if limit is not None and used >= limit:
                    raise UserError(f"the budget is used up: engine.{name}={limit} ({used:,} used by this start)")
            self._sent.add(key)

    def _keep(self, key: str, answer: Answer) -> None:
        self._journal.add(key, answer)
        if answer.completion_tokens is None and self._settings.max_total_tokens is not None:
            raise UserError(
                "engine.max_total_tokens: the server does not say how many tokens it took; limit engine.max_requests"
            )
        with self._spending:
            self._spent += (answer.prompt_tokens or 0) + (answer.completion_tokens or 0)

    def _sample(self, key: str) -> Sample:
        answer = self._journal.get(key)
        assert answer is not None  # it was asked
        self._used[key] = answer
        tokens = -1 if answer.completion_tokens is None else answer.completion_tokens
        return Sample(self.chat.reply(answer.text), (0.0,), answer.finish, tokens)

    def _describe_kept(self) -> str:
        count = len(self._journal) - self._kept_at_start
        return (
            f"{len(self._journal):,} answers are kept in {self._journal.path}, {count:,} of them new; the same command "
            "goes on from there"
        )


def _show_all(pieces: Generator[str, None, Answer], show: Callable[[str], None]) -> Answer:
    while True:
        try:
            piece = next(pieces)
        except StopIteration as end:
            answer: Answer = end.value
            return answer
        show(piece)
