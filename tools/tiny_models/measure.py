"""Measure what a tiny base starts from at temperature 1: p, keep rate k, fix rate f, and p* = f / (f + 1 - k).

Run     python tools/tiny_models/measure.py countdown --check "Check: "
Run     python tools/tiny_models/measure.py hasty --check "Check: " --first "Steps: "
Run     python tools/tiny_models/measure.py verify --check "Check: " --verify

With --verify: how many of its verifications are careful, and how many are true, of all, of right and of wrong answers.
"""

from __future__ import annotations

import click

from scorl.engines import Request
from scorl.engines.torch import TorchEngine
from scorl.model.policy import Policy
from scorl.recipe.resolve import resolve
from scorl.seeds import derive
from scorl.tasks.task import Task
from scorl.tasks.turns import Turn, Verification, read_claim
from scorl.trajectory import Problem

Rows = list[tuple[Problem, tuple[int, ...]]]
"""A problem, and the tokens of the conversation so far."""
Attempt = tuple[tuple[int, ...], bool]
"""What was written, and whether it is right."""


class Bench:
    """Answers of one model to one task at temperature 1, whose first words may be given."""

    def __init__(self, policy: Policy, task: Task, max_tokens: int) -> None:
        self.policy, self.task, self.max_tokens = policy, task, max_tokens
        self.engine = TorchEngine(policy)

    def attempt(self, rows: Rows, opening: str, place: str) -> list[Attempt]:
        """An attempt of each row that begins with `opening`."""
        written, texts = self.write(rows, opening, place)
        verdicts = self.task.judge([(problem, text) for (problem, _), text in zip(rows, texts, strict=True)])
        return [(ids, verdict.reward > 0) for ids, verdict in zip(written, verdicts, strict=True)]

    def write(self, rows: Rows, opening: str, place: str) -> tuple[list[tuple[int, ...]], list[str]]:
        """A response to each row that begins with `opening`, as tokens and as text."""
        words = tuple(self.policy.tokenizer.encode(opening, add_special_tokens=False)) if opening else ()
        asked = [Request(ids + words, derive("measure", place, at)) for at, (_, ids) in enumerate(rows)]
        written = [
            words + tuple(sample.ids)
            for sample in self.engine.sample(asked, temperature=1.0, max_tokens=self.max_tokens)
        ]
        return written, [self.policy.chat.text(ids) for ids in written]

    def follow(self, rows: Rows, firsts: list[Attempt], turn: Turn) -> Rows:
        """The rows behind these first attempts and the next turn of the user."""
        follow = self.policy.chat.follow
        return [
            (problem, tuple(follow(ids, written, turn.ask(problem))))
            for (problem, ids), (written, _) in zip(rows, firsts, strict=True)
        ]

    def verify(self, rows: Rows, firsts: list[Attempt], opening: str, check: str) -> dict[str, float]:
        """Verifications of these first attempts, in rates: true of all, of right, of wrong ones; careful."""
        turn = Verification()(self.task.correction, 2)[0]
        _, texts = self.write(self.follow(rows, firsts, turn), opening, f"verification {opening}")
        claims = [(read_claim(text) is right, right) for text, (_, right) in zip(texts, firsts, strict=True)]
        of = {"all": claims, "right": [c for c in claims if c[1]], "wrong": [c for c in claims if not c[1]]}
        careful = rate([text.startswith(check.strip()) for text in texts])
        return {name: rate([true for true, _ in those]) for name, those in of.items()} | {"careful": careful}

    def correct(self, rows: Rows, firsts: list[Attempt], opening: str) -> dict[str, float]:
        """Second attempts after these first ones, in rates: @t1, @t2, keep, fix, and p*, the ceiling of correcting."""
        (turn,) = self.task.turns(2)
        asked = self.follow(rows, firsts, turn)
        seconds = [right for _, right in self.attempt(asked, opening, f"second {opening}")]
        before = [right for _, right in firsts]
        keep = rate([after for right, after in zip(before, seconds, strict=True) if right])
        fix = rate([after for right, after in zip(before, seconds, strict=True) if not right])
        return {"t1": rate(before), "t2": rate(seconds), "keep": keep, "fix": fix, "p*": fix / (fix + 1 - keep)}


def rate(rights: list[bool]) -> float:
    """The share that is right."""
    return sum(rights) / max(1, len(rights))


@click.command(help=__doc__)
@click.argument("recipe")
@click.option("--model", help="Measure this model instead of the recipe's.")
@click.option("--check", required=True, help="How a careful second attempt begins.")
@click.option("--first", default="", help="How the better first attempts begin.")
@click.option("--problems", default=500, show_default=True)
@click.option("--samples", default=4, show_default=True)
@click.option("--verify", is_flag=True, help="Measure verifications of first attempts, not second attempts.")
def measure(recipe: str, model: str | None, check: str, first: str, problems: int, samples: int, verify: bool) -> None:
    made = resolve(recipe)
    policy = Policy(model or made.model.path)
    task = made.build_task()
    bench = Bench(policy, task, made.engine.sampling.limit(2))
    rows = [
        (problem, tuple(policy.chat.prompt(problem.prompt)))
        for problem in task.split("test").take(problems)
        for _ in range(samples)
    ]
    starts = [("as it is", bench.attempt(rows, "", "first"))]
    starts += [("better first", bench.attempt(rows, first, "better"))] if first else []
    for name, firsts in starts:
        for opening in ("", check):
            figures = bench.verify(rows, firsts, opening, check) if verify else bench.correct(rows, firsts, opening)
            shown = "".join(f"{key:>8} {100 * value:5.1f}" for key, value in figures.items())
            click.echo(f"{name}, {'checked' if opening else 'free':8}{shown}")


if __name__ == "__main__":
    measure()
