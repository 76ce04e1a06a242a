"""What a run measures, sent to TensorBoard, Weights & Biases, Trackio or MLflow as well.

    train/...           the figures of a line of steps.jsonl; train/stage counts the stages from 0
    eval/...            a held-out evaluation's metrics; eval_interval/... their bounds, eval_fixed/... of `fixed`
    eval/attempts       the attempts at the first held-out problems, a table for each evaluation
    alarms/KIND         1 in the steps that raise it; the first time in words as well

The axis is the number of updates that the policy has seen, so that an evaluation stands beside the step that its policy
sampled. A run that resumes goes on in the loggers' own runs, whose names are kept in the run directory.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any

from scorl.recipe.hidden import hide_secrets
from scorl.recipe.sections import Recipe
from scorl.run.directory import RunDirectory
from scorl.run.files import Record
from scorl.run.trackers import TRACKERS, TrackedRun, Tracker

__all__ = ["Loggers", "tabulate_attempts"]


class Loggers:
    """Sends a run's records to the loggers that its recipe names; a context manager.

    Args:
        recipe: decided, as it is run.
        directory: of the run; the process that writes there opens it by itself, without other ranks.
        versions: go into the loggers' config beside the recipe.
    """

    def __init__(self, recipe: Recipe, directory: RunDirectory, versions: Mapping[str, str]) -> None:
        self._recipe, self._directory = recipe, directory
        self._config = hide_secrets(recipe.as_dict()) | {"versions": dict(versions)}
        self._ends = [sum(stage.steps for stage in recipe.stages[: n + 1]) for n in range(len(recipe.stages))]
        self._opened: dict[str, Tracker] = {}
        self._left_alone: dict[str, float] = {}  # until when
        self._raised: set[str] = set()
        self._stack = ExitStack()

    def __enter__(self) -> Loggers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._stack.__exit__(kind, error, trace)
        except Exception as failure:  # of closing one: the run's own error goes on by itself
            self._warn("a logger", failure)

    def start(self, updates: int) -> None:
        """Open them for a run that has made so many updates and holds its directory.

        Raises:
            UserError: one refuses; what it says is in the message.
        """
        for name in self._recipe.loggers:
            before = self._directory.logger_runs().get(name)
            run = TrackedRun(self._directory, self._recipe, self._config, updates, before)
            tracker, own_name = self._stack.enter_context(TRACKERS[name](run))
            self._directory.record_logger_run(name, own_name)
            self._opened[name] = tracker
        self._raised |= {alarm["kind"] for step in self._directory.steps() for alarm in step.get("alarms", ())}
        if updates:  # TensorBoard hides what lies at the step where a run resumes, and nobody measures it again
            for evaluation in self._directory.evaluations().values():
                if evaluation["step"] == updates:
                    self.evaluation(evaluation)

    def step(self, record: Record) -> None:
        """Send a line of steps.jsonl."""
        step, alarms = record["step"], {alarm["kind"]: alarm["statistic"] for alarm in record.get("alarms", ())}
        stage = sum(end <= step for end in self._ends)
        figures = {f"train/{name}": value for name, value in flatten(record) if name != "step"}
        self._log(step, figures | {"train/stage": float(stage)} | {f"alarms/{kind}": 1.0 for kind in alarms})
        for kind, statistic in alarms.items():
            if kind not in self._raised:
                self._say(step, f"alarm: {kind.replace('_', ' ')}", statistic)
        self._raised |= alarms.keys()

    def evaluation(self, latest: Record) -> None:
        """Send an evaluation, which says its `step`."""
        self._log(latest["step"], dict(name_evaluation(latest)))
        if limit := self._recipe.logging.problems:
            attempts = self._directory.attempts([latest["step"]], held_out=True)
            if rows := tabulate_attempts(attempts, limit):
                self._tell(lambda tracker: tracker.tabulate(latest["step"], "eval/attempts", rows))

    def _log(self, step: int, figures: Mapping[str, float]) -> None:
        self._tell(lambda tracker: tracker.log(step, figures))

    def _say(self, step: int, title: str, text: str) -> None:
        self._tell(lambda tracker: tracker.say(step, title, text))

    def _tell(self, send: Callable[[Tracker], None]) -> None:
        """Send something to each of them; a run does not end by one that does not take it.

        That one is left alone for ten times as long as its failure took: a client may wait minutes for a server.
        """
        for name, tracker in self._opened.items():
            began = time.monotonic()
            if began < self._left_alone.get(name, began):
                continue
            try:
                send(tracker)
            except Exception as failure:  # of any kind: it is somebody else's code
                if name not in self._left_alone:
                    self._warn(name, failure)
                now = time.monotonic()
                self._left_alone[name] = now + 10 * (now - began)

    def _warn(self, name: str, failure: Exception) -> None:
        said = " ".join(str(failure).split())[:300]
        warnings.warn(
            f"loggers: {name} failed ({type(failure).__name__}: {said}); the run goes on, and its own files have "
            "what is missing there",
            stacklevel=2,
        )


def name_evaluation(latest: Record) -> Iterator[tuple[str, float]]:
    """An evaluation's figures with the names that loggers show; undefined ones are left out.

    >>> rate = {"value": 0.5, "low": 0.25, "high": 0.75}
    >>> dict(name_evaluation({"metrics": {"accuracy_t1": rate}, "mcnemar_p": None}))
    {'eval/accuracy_t1': 0.5, 'eval_interval/accuracy_t1_low': 0.25, 'eval_interval/accuracy_t1_high': 0.75}
    """
    for prefix, about in (("eval", latest), ("eval_fixed", latest.get("fixed") or {"metrics": {}})):
        yield from flatten({f"{prefix}/{name}": metric["value"] for name, metric in about["metrics"].items()})
        yield from flatten({f"{prefix}/mcnemar_p": about.get("mcnemar_p")})
    bounds = ((name, end, metric[end]) for name, metric in latest["metrics"].items() for end in ("low", "high"))
    yield from flatten({f"eval_interval/{name}_{end}": value for name, end, value in bounds})


def tabulate_attempts(records: Iterable[Record], limit: int) -> list[dict[str, str]]:
    """The attempts at the first so many problems, of each its first sample: a row a problem, in plain UTF-8."""
    rows: dict[str, dict[str, str]] = {}
    for record in records:
        problem = record["problem"]
        if problem not in rows and len(rows) == limit:
            break
        if record["sample"] or record.get("branch") or record.get("role", "attempt") != "attempt":
            continue
        asked = {"problem": problem, "question": record.get("question", ""), "gold": record.get("gold", "")}
        number, reason = record["turn"] + 1, record.get("reason")
        verdict = f"{record['verdict']} ({reason})" if reason else str(record["verdict"])
        row = rows.setdefault(problem, {name: _clean(text) for name, text in asked.items()})
        row |= {f"attempt {number}": _clean(record["text"]), f"verdict {number}": _clean(verdict)}
    return list(rows.values())


def _clean(text: Any) -> str:
    """Without what is no character, which some loggers refuse."""
    return str(text).encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")


def flatten(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """The figures of a record with their names; nested ones as `seconds/learn`, undefined ones left out.

    >>> list(flatten({"stage": "one", "delta": None, "seconds": {"learn": 1.5}}))
    [('seconds/learn', 1.5)]
    """
    for key, value in record.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}/")
        elif isinstance(value, (int, float)):
            yield prefix + key, float(value)
