"""`files`: problems of one's own, as texts or as chat messages, from files of every usual form or from the hub."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Annotated

from annotated_types import Interval

from scorl.errors import UserError, nearest
from scorl.tasks.columns import (
    ANSWERS,
    PROBLEMS,
    as_chat,
    check_golds,
    find_column,
    find_problem,
    read_chat,
    read_gold,
    read_solution,
    row_id,
)
from scorl.tasks.data import fill_prompt, hash_text, make_splits, split_key
from scorl.tasks.reward import RewardJudge, load_function
from scorl.tasks.rows import Row, column, keep_good
from scorl.tasks.task import Task
from scorl.trajectory import Problem
from scorl.verifiers import TEXT_VERIFIERS, Judge

__all__ = ["Files", "files"]

PROMPT = "{question}"
CORRECTION = (
    "There might be an error in the answer above. Go through it again, correct it if something is wrong, and end with "
    "the final answer in the same form as before."
)


@dataclass(frozen=True)
class Files:
    """Settings of `files`."""

    path: str | None = None
    """A file (JSONL, JSON, CSV, TSV, Parquet, Arrow; `.gz` too), a folder of them by split or from `save_to_disk`, or
    a name on the hub; None: only `test_path` is there, to evaluate on."""
    test_path: str | None = None
    """The file with the test problems; None: the split `test` of `path`, or a part of it."""
    dataset_config: str | None = None
    """The configuration of a data set on the hub that has several."""
    test_fraction: Annotated[float, Interval(gt=0, lt=1)] = 0.1
    """Without test problems: the part of the problems, picked by a hash of their questions, that is held out."""
    problem: str | None = None
    """The column with the problem, a text or chat messages; None: problem, prompt, question, messages or
    conversations. A dot leads into a column: `extra_info.question`."""
    answer: str | None = None
    """The column with the gold answer; None: answer, final_answer, ground_truth, reward_model.ground_truth or
    solution, else the assistant's last message. A Python reward function can do without."""
    solution: str | None = None
    """The column with reference solutions, for `supervised`; None: the assistant's last message, if there is one."""
    verifier: str | tuple[str, ...] = "math"
    """`math`, `number` (a plain number, worked out), `exact` (the same characters), a reward function
    (module:function or file.py:function), or a list of them, whose rewards are added up."""
    reward_weights: tuple[float, ...] | None = None
    """The weight of each verifier of a list; None: 1."""
    prompt: str = PROMPT
    """The first prompt; `{question}` is filled in. Chat messages are taken as they are."""
    correction: str = CORRECTION
    """The message between two attempts."""

    def __post_init__(self) -> None:
        for name in self.verifiers:
            if ":" not in name and name not in TEXT_VERIFIERS:
                hint = nearest(name, [*TEXT_VERIFIERS, "module:function", "file.py:function"])
                raise UserError(f"files: no verifier '{name}': {hint}")
        if not self.verifiers:
            raise UserError("files: verifier: the list is empty")
        if self.reward_weights is not None and len(self.reward_weights) != len(self.verifiers):
            raise UserError(
                f"files: reward_weights: {len(self.reward_weights)} weights for {len(self.verifiers)} verifiers"
            )

    @property
    def verifiers(self) -> tuple[str, ...]:
        """All of them, by name."""
        return (self.verifier,) if isinstance(self.verifier, str) else tuple(self.verifier)

    @property
    def needs_answers(self) -> bool:
        """Whether a verifier compares with a gold answer."""
        return any(name in TEXT_VERIFIERS for name in self.verifiers)


def files(settings: Files) -> Task:
    """The task `files`, with the splits `train`, `test` and `all` as far as there are files for them.

    Raises:
        UserError: no such file, a missing column, broken JSON, or no such verifier.
    """
    splits = make_splits(
        "files",
        settings.path,
        settings.test_path,
        settings.test_fraction,
        partial(make_problems, settings=settings),
        settings.dataset_config,
    )
    problems = splits["all"].take(None)
    return Task("files", splits, settings.correction, choose_judge(settings, problems))


def choose_judge(settings: Files, problems: Sequence[Problem]) -> Judge:
    """The judge that the settings name, for problems such as these."""
    if isinstance(settings.verifier, str) and settings.verifier in TEXT_VERIFIERS and not settings.reward_weights:
        return TEXT_VERIFIERS[settings.verifier]
    columns = dict.fromkeys(chain.from_iterable(problem.columns for problem in problems))
    chat = is_chat(problems[0], settings.problem)
    parts = [TEXT_VERIFIERS.get(name) or load_function(name, chat, columns) for name in settings.verifiers]
    return RewardJudge(settings.verifiers, tuple(parts), settings.reward_weights or (1.0,) * len(parts))


def is_chat(problem: Problem, name: str | None = None) -> bool:
    """Whether the row of a problem holds chat messages, which a reward function then gets as well."""
    row = Row(dict(problem.columns), "")
    name = name or find_column(row, PROBLEMS)
    return name is not None and not isinstance(as_chat(column(row, name)), str)


def make_problems(rows: Sequence[Row], settings: Files) -> list[Problem]:
    """Rows of one form as problems."""
    names = (settings.problem,) if settings.problem else PROBLEMS
    first = find_usual(rows, names)
    question = settings.problem or find_problem(first)
    answer = settings.answer or (find_column(first, ANSWERS) if settings.needs_answers else None)
    if settings.needs_answers and settings.answer is None and answer not in (None, "answer"):
        warnings.warn(f"task 'files': the gold answers are those of the column '{answer}'", stacklevel=2)
    made = keep_good(lambda row: (row.where, make_problem(row, question, answer, settings)), rows)
    for verifier in {"math", "number"} & set(settings.verifiers):
        check_golds([(where, problem.answer) for where, problem in made], "files", verifier)
    return [problem for _, problem in made]


def find_usual(rows: Sequence[Row], names: Sequence[str]) -> Row:
    """The first row that has its problem and its answer in the columns that most rows have them in."""
    forms = [(find_column(row, names), find_column(row, ANSWERS)) for row in rows]
    counts = Counter(form for form in forms if form[0])
    return rows[forms.index(counts.most_common(1)[0][0])] if counts else rows[0]


def make_problem(row: Row, question: str, answer: str | None, settings: Files, template: str = PROMPT) -> Problem:
    """A row as a problem, whose id is the row's own, or made of what is asked; splits go by it in the template."""
    asked, reply, key = as_chat(column(row, question)), None, None
    if isinstance(asked, str):
        if not asked.strip():
            raise UserError(f"{row.where}: column '{question}': the problem is blank")
        prompt, key = fill_prompt(settings.prompt, asked), split_key(asked, template)
    else:
        prompt, reply = asked, reply = read_chat(asked, row)
    gold = None
    if settings.needs_answers:
        wanted = reply if answer is None and reply is not None else column(row, answer or "answer")
        gold = read_gold(wanted, answer or "answer", row.where)
    solution = read_solution(row, settings.solution) if settings.solution else reply
    return Problem(row_id(row) or hash_text(repr(asked)), prompt, gold, solution, row.values, split_key=key)
