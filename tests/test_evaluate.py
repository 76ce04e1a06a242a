"""Evaluation with canned answers, and the lines that attempts become."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from support.templates import chat_of

from scorl.engines.scripted import ScriptedEngine
from scorl.errors import UserError
from scorl.evaluation import Evaluation, evaluate
from scorl.run.attempts import read_attempts
from scorl.run.files import response_records
from scorl.settings import EvaluationSettings
from scorl.tasks.task import Task
from scorl.trajectory import Credit, Problem, Verdict, user

CHAT = chat_of("chatml")
PROBLEMS = [Problem(f"add-{n}", (user(f"What is {n} + 1?"),), answer=str(n + 1)) for n in range(100)]


class Sums:
    """The fixed problems above."""

    def draw(self, count: int, start: int, seed: int) -> list[Problem]:
        return PROBLEMS[start : start + count]

    def take(self, limit: int | None) -> list[Problem]:
        return PROBLEMS[:limit]


def judge(pairs: Sequence[tuple[Problem, str]]) -> list[Verdict]:
    return [
        Verdict(float(text == p.answer), "correct" if text == p.answer else "incorrect", "", text) for p, text in pairs
    ]


TASK = Task("sums", {"test": Sums()}, "There might be an error. Solve it again.", judge)


def answer(prompt: str, seed: int) -> str:
    """Always 2 at first, always 3 when asked again."""
    return "3" if "error" in prompt else "2"


def run(limit: int | None = 4, attempts: int = 2) -> Evaluation:
    engine = ScriptedEngine(CHAT, answer)
    return evaluate(engine, TASK, EvaluationSettings(problems=limit), model="canned", attempts=attempts)


def test_a_first_attempt_that_comes_with_the_problem_is_repaired_and_not_written() -> None:
    class Wrong(Sums):
        def take(self, limit: int | None) -> list[Problem]:
            return [replace(problem, first_attempt="7") if n else problem for n, problem in enumerate(PROBLEMS[:3])]

    task = replace(TASK, splits={"test": Wrong()})
    engine = ScriptedEngine(CHAT, answer)
    groups = evaluate(engine, task).groups
    assert [[a.text for a in group[0].attempts] for group in groups] == [["2", "3"], ["7", "3"], ["7", "3"]]
    assert [[a.offline for a in group[0].attempts] for group in groups] == [
        [False, False],
        [True, False],
        [True, False],
    ]
    first, second = groups[2][0].attempts
    assert second.prompt_ids[: len(first.prompt_ids + first.ids)] == first.prompt_ids + first.ids
    assert [second.right for group in groups for second in group[0].attempts[1:]] == [False, False, True]
    with pytest.raises(UserError, match="2 attempts"):
        evaluate(engine, task, attempts=1)


def test_the_summary_has_the_documented_shape() -> None:
    summary = run().summary()
    assert json.loads(json.dumps(summary)) == summary
    head = {
        key: summary[key]
        for key in ("model", "task", "split", "problems", "attempts", "temperature", "samples", "seed")
    }
    assert head == {
        "model": "canned",
        "task": "sums",
        "split": "test",
        "problems": 4,
        "attempts": 2,
        "temperature": 0.0,
        "samples": 1,
        "seed": 0,
    }
    values = {name: m["value"] for name, m in summary["metrics"].items()}
    assert all(set(m) == {"value", "low", "high"} for m in summary["metrics"].values())
    assert (values["accuracy_t1"], values["accuracy_t2"], values["delta"]) == (0.25, 0.25, 0.0)
    assert (values["incorrect_to_correct"], values["correct_to_incorrect"]) == (0.25, 0.25)
    assert (values["fix_rate"], values["break_rate"], values["answer_changed"]) == (1 / 3, 1.0, 1.0)
    assert summary["mcnemar_p"] == 1.0
    assert summary["outcomes"] == {"add-0": "00*", "add-1": "10*", "add-2": "01*", "add-3": "00*"}


def test_the_summary_has_one_limit_or_that_of_each_attempt() -> None:
    engine = ScriptedEngine(CHAT, answer)
    for given, written in ((20, 20), ((20, 30), [20, 30])):
        summary = evaluate(engine, TASK, EvaluationSettings(problems=2), max_tokens=given).summary()
        assert summary["max_tokens"] == written
        assert json.loads(json.dumps(summary)) == summary
    one, both = (evaluate(engine, TASK, max_tokens=given).groups for given in (20, (20, 20)))
    assert one == both


def test_progress_is_told_and_chunks_do_not_show() -> None:
    """A part fills the engine's batch; progress is told after each turn of it."""
    told: list[tuple[int, int]] = []
    answers, settings = [str(n) for n in range(10)], EvaluationSettings(problems=None, temperature=1.0, samples=2)

    def measured(batch_size: int, settings: EvaluationSettings = settings) -> Evaluation:
        told.clear()
        engine = ScriptedEngine(CHAT, answers, batch_size)
        return evaluate(engine, TASK, settings, progress=lambda done, total: told.append((done, total)))

    whole = measured(256)
    assert told == [(50, 100), (100, 100)]
    assert measured(160) == whole
    assert told == [(40, 100), (80, 100), (90, 100), (100, 100)]
    assert measured(1) == whole
    assert told == [(32, 100), (64, 100), (82, 100), (100, 100)]
    assert measured(256, replace(settings, problems=70)).groups == whole.groups[:70]
    assert len({a.text for group in whole.groups for t in group for a in t.attempts}) == 10


def test_other_seeds_draw_other_samples() -> None:
    engine = ScriptedEngine(CHAT, [str(n) for n in range(10)])
    settings = EvaluationSettings(problems=20, temperature=1.0)
    drawn = [evaluate(engine, TASK, settings, seed=seed).groups for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_one_attempt_has_no_delta() -> None:
    summary = run(attempts=1).summary()
    assert summary["mcnemar_p"] is None
    assert summary["metrics"]["delta"] == {"value": None, "low": None, "high": None}


def test_mistakes_are_named() -> None:
    with pytest.raises(UserError, match="no problem"):
        run(limit=0)
    with pytest.raises(UserError, match="no split 'tset': did you mean 'test'"):
        evaluate(ScriptedEngine(CHAT, answer), TASK, EvaluationSettings(split="tset"))


def test_an_attempt_becomes_a_line_and_is_read_back(tmp_path: Path) -> None:
    ((trajectory,), *_) = run().groups
    _, line = response_records(12, trajectory, (Credit(), Credit(advantage=1.5, beta=0.01)))
    contract = "step problem sample turn prompt_tokens tokens text reward finish policy advantage beta imitation"
    assert list(line)[:13] == contract.split()
    assert (line["step"], line["problem"], line["turn"], line["text"]) == (12, "add-0", 1, "3")
    assert (line["place"], line["role"]) == (1, "attempt")
    assert (line["prompt_tokens"], line["tokens"]) == (len(trajectory.attempts[1].prompt_ids), 2)
    assert (line["advantage"], line["beta"], line["imitation"]) == (1.5, 0.01, 0.0)
    assert (line["verdict"], line["answer"], line["question"]) == ("incorrect", "3", "What is 0 + 1?")
    bare, _ = response_records(12, trajectory)
    assert (bare["advantage"], bare["beta"], bare["imitation"]) == (None, None, None)

    (tmp_path / "attempts").mkdir()
    for step in (10, 9):
        (tmp_path / "attempts" / f"step-{step:06d}.jsonl").write_text(json.dumps({**line, "step": step}) + "\n")
    assert [read["step"] for read in read_attempts(tmp_path)] == [10, 9]
    file = tmp_path / "attempts" / "step-000009.jsonl"
    file.write_text(json.dumps(line) + "\n" + json.dumps(line)[:20])
    assert list(read_attempts(file)) == [line]  # the last line is still being written


def test_files_without_attempts_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no attempts in"):
        list(read_attempts(tmp_path))
    file = tmp_path / "other.jsonl"
    for text, message in (
        ("{}\n", "holds no attempts: a line has no `step`"),
        ('{"step": 1, "problem": "a", "sample": 0, "turn": 0}\n', "a line has no `text`"),
        ("[1]\n", "line 1 is no JSON object"),
        ("{\n", "line 1 is no JSON"),
    ):
        file.write_text(text)
        with pytest.raises(UserError, match=message):
            list(read_attempts(file))
