"""`scorl solve`."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scorl.cli.output import quiet, say
from scorl.cli.paths import UserPath
from scorl.cli.sampling import (
    COUNT,
    build_engine,
    engine_option,
    max_tokens_option,
    resolve_limits,
    resolve_sampler,
    resolve_wording,
    say_usage,
    split_settings,
)
from scorl.errors import UserError
from scorl.settings import MaxTokens, Sampling
from scorl.text_files import decode_text

if TYPE_CHECKING:
    from rich.console import Console

    from scorl.engines import Engine
    from scorl.recipe import TaskChoice
    from scorl.tasks.turns import Turns
    from scorl.trajectory import Group, Problem, Trajectory

__all__ = ["solve"]

FILE = UserPath(dir_okay=False, allow_dash=True)
MAX_TOKENS = 512
"""Of a response, where no run says otherwise."""
VOTING_TEMPERATURE = 0.7
"""Of several samples, as in the paper's section 6."""


@click.command()
@click.argument("model")
@click.argument("words", nargs=-1, metavar="[QUESTION] [KEY=VALUE]...")
@click.option("--file", "source", type=FILE, help="A file that is the question; -: stdin.")
@click.option("--task", "task_name", help="Ask in this task's wording; a run knows its own.")
@engine_option
@click.option("--attempts", type=COUNT, default=2, show_default=True)
@click.option("--samples", type=COUNT, default=1, show_default=True, help="So many vote by their last attempts.")
@click.option(
    "--temperature",
    type=click.FloatRange(min=0),
    help=f"0 is greedy.  [default: 0, {VOTING_TEMPERATURE} with --samples]",
)
@max_tokens_option(MAX_TOKENS)
@click.option("--system", metavar="TEXT", help="A system message before the question.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Write one JSON line a question.")
def solve(
    model: str,
    words: tuple[str, ...],
    source: Path | None,
    task_name: str | None,
    engine: str,
    attempts: int,
    samples: int,
    temperature: float | None,
    max_tokens: MaxTokens | None,
    system: str | None,
    seed: int,
    as_json: bool,
) -> None:
    """Ask MODEL a question, have it correct its answer, and show both attempts as they are written.

    Without a question it is read from stdin; on a terminal each line is one. MODEL, engine and settings are as in
    `scorl evaluate`; the task's begin with task. here, as in task.correction="Look again."
    """
    for word in (*words, system or ""):
        _check_characters(word)
    question, settings = _split(words)
    if question is not None and source is not None:
        raise UserError("the question is given twice: as an argument and by --file")
    temperature = (VOTING_TEMPERATURE if samples > 1 else 0.0) if temperature is None else temperature
    if samples > 1 and not temperature:
        raise UserError("at --temperature 0 all samples are the same, and there is nothing to vote on")
    of_sampler, of_task = split_settings(settings)
    sampler = resolve_sampler(model, engine, of_sampler)
    task, turns, own_max_tokens = resolve_wording(model, task_name, of_task)
    longest = resolve_limits(max_tokens, attempts, own_max_tokens or MAX_TOKENS)
    if source is not None or (question is None and not sys.stdin.isatty()):
        question = _read_question(source)
    if question is not None:
        task.pose(question)  # before a model is loaded
    sampler.check()

    from rich.console import Console

    quiet()
    asking = Asking(
        build_engine(sampler),
        task if system is None else replace(task, system_prompt=system),
        turns,
        attempts,
        Sampling(temperature, longest),
        samples,
        seed,
        None if as_json else Console(highlight=False),
    )
    if question is not None:
        asking.answer(question)
    else:
        for line in _read_lines():
            _answer_line(asking.answer, line)
    say_usage(asking.engine)


@dataclass(frozen=True)
class Asking:
    """What every question of a command has in common."""

    engine: Engine
    task: TaskChoice
    turns: Turns
    attempts: int
    sampling: Sampling
    samples: int
    seed: int
    console: Console | None
    """None: one JSON line a question."""

    def answer(self, question: str) -> None:
        """Ask, and print what is answered."""
        from scorl.cli.transcript import Transcript
        from scorl.inference.solving import solve
        from scorl.tasks.asking import correction_of

        problem = self.task.pose(question)
        turns = self.turns(correction_of(self.task.settings), self.attempts)
        transcript = Transcript(self.console, problem, turns) if self.console else None
        try:
            group = solve(
                self.engine,
                problem,
                turns,
                self.sampling,
                samples=self.samples,
                seed=self.seed,
                listener=transcript,
                progress=self._tell,
            )
        finally:
            if transcript:
                transcript.close()
        record = self._describe(question, problem, group)
        if transcript is None:
            click.echo(json.dumps(record))  # in ASCII, of which no terminal obeys anything
            return
        if self.samples > 1:
            for response in record["samples"][record["shown"]]["responses"]:
                transcript.begin()
                transcript.hear(response["text"])
                transcript.end(response["finish"])
        transcript.conclude(record["answer"], [(v["answer"], v["samples"]) for v in record["votes"]], self.samples)

    def _tell(self, written: int) -> None:
        if self.samples > 1:
            click.echo(f"{written} of {self.attempts} attempts of {self.samples} samples", err=True)

    def _describe(self, question: str, problem: Problem, group: Group) -> dict[str, Any]:
        """The answer to a question as JSON."""
        from scorl.inference.solving import count_votes
        from scorl.tasks.asking import name_answer

        samples = [self._describe_sample(trajectory) for trajectory in group]
        votes = count_votes([sample["answer"] for sample in samples], partial(name_answer, self.task.settings))
        return {
            "question": question,
            "prompt": list(problem.prompt),
            "answer": votes[0].answer if votes else None,
            "votes": [{"answer": vote.answer, "samples": vote.samples} for vote in votes],
            "shown": votes[0].first if votes else 0,
            "samples": samples,
        }

    def _describe_sample(self, trajectory: Trajectory) -> dict[str, Any]:
        from scorl.inference.solving import final_attempt
        from scorl.tasks.asking import correction_of, find_answer

        settings = self.task.settings
        final = final_attempt(trajectory, self.turns(correction_of(settings), self.attempts))
        responses = [
            {
                "role": response.role,
                "text": response.text,
                "answer": find_answer(settings, response.text) if response.role == "attempt" else None,
                "finish": response.finish,
                "tokens": response.tokens,
            }
            for response in trajectory.responses
        ]
        return {"answer": find_answer(settings, final.text), "responses": responses}


def _split(words: Sequence[str]) -> tuple[str | None, tuple[str, ...]]:
    """The question, which comes first if there is one, and the settings."""
    named = tuple(word for word in words if word.startswith(("model.", "engine.", "task.")) and "=" in word)
    others = [word for word in words if word not in named]
    if len(others) > 1:
        raise UserError(
            f"one question, please, in quotes; settings begin with model., engine. or task.: {others[1]!r:.60} does not"
        )
    return (_check(others[0]) if others else None), named


def _read_question(source: Path | None) -> str:
    """The question that a file is, or stdin.

    Raises:
        UserError: it cannot be read, or is no text, or empty.
    """
    if source is None or str(source) == "-":
        return _check(decode_text(sys.stdin.buffer.read(), Path("stdin")))
    try:
        return _check(decode_text(source.read_bytes(), source))
    except OSError as error:
        raise UserError(f"cannot read {source}: {error.strerror}") from error


def _check(question: str) -> str:
    """A question without space around it.

    Raises:
        UserError: it is empty, or no UTF-8.
    """
    _check_characters(question)
    if not question.strip():
        raise UserError("the question is empty")
    return question.strip()


def _check_characters(text: str) -> None:
    """Bytes of a command line or a terminal that are no UTF-8 come as halves of characters, which nothing takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(f"this is not UTF-8: {text!a:.60}") from None


def _read_lines() -> Iterator[str]:
    """The lines that somebody types, until Ctrl-D."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - lets `input` edit and recall
    click.echo("One question a line; Ctrl-C stops an answer, Ctrl-D ends.", err=True)
    while True:
        try:
            line = input("? ").strip()
        except EOFError:
            click.echo()
            return
        if line:
            yield line


def _answer_line(answer: Callable[[str], None], line: str) -> None:
    """Answer one of many questions, of which none ends the command."""
    try:
        answer(_check(line))
    except UserError as error:
        say(f"scorl: {error}")
    except KeyboardInterrupt:
        click.echo("\nstopped", err=True)
