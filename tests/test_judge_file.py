"""A file of answers becomes one of verdicts; a line of another form is the user's mistake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.hostile import ADD, TESTS

from scorl.cli.judge import judge
from scorl.cli.judge_file import ANSWERS, judge_lines
from scorl.errors import UserError
from scorl.sandbox.bubblewrap import detect_level
from scorl.verifiers import VERIFIERS

full = pytest.mark.skipif(not detect_level().full, reason=f"no full sandbox here: {detect_level().reason}")


def test_judge_lines(tmp_path: Path) -> None:
    lines = [
        {"id": 1, "response": "The answer is 12.", "answer": 12},
        {"id": "b", "response": None, "answer": "12"},
        {"id": "c", "response": "\0" * 10, "answer": "12"},
        {"id": "d", "response": "#### 1,200", "answer": "1200"},
    ]
    path = tmp_path / "answers.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
    judged = list(judge_lines(path, "math"))
    assert [(line["id"], line["reward"]) for line in judged] == [(1, 1.0), ("b", 0.0), ("c", 0.0), ("d", 1.0)]
    assert judged[1]["verdict"] == "unparsable"
    assert "NoneType" in judged[1]["reason"]
    assert set(judged[0]) == {"id", "reward", "verdict", "reason"}


def test_judge_lines_for_countdown(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    rows = [
        {"id": 1, "response": "7*3=21 21-5=16", "numbers": [7, 3, 5], "target": 16},
        {"id": 2, "response": "7+3=11", "numbers": [7, 3, 5], "target": 11},
    ]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert [line["reward"] for line in judge_lines(path, "countdown")] == [1.0, 0.0]


def test_judge_lines_by_characters(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    rows = [
        {"id": i, "response": text, "answer": "Yes"} for i, text in enumerate(["Yes ", "The answer is Yes.", "yes"])
    ]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert [line["reward"] for line in judge_lines(path, "exact")] == [1.0, 1.0, 0.0]


def test_every_verifier_can_be_named() -> None:
    assert set(ANSWERS) == set(VERIFIERS)
    assert judge.help is not None
    assert [name for name in VERIFIERS if name not in judge.help] == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: not valid JSON"),
        ("[1]", "line 2: not a JSON object"),
        ('{"id": 1, "answer": "2"}', "line 2: no 'response'; the line has: id, answer"),
        ('{"id": 1, "response": "2"}', "line 2: no 'answer'"),
        ('{"id": 1, "response": "2", "answer": null}', "line 2: column 'answer' is no answer"),
    ],
)
def test_lines_of_another_form_are_the_users_mistake(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text('{"id": 0, "response": "1", "answer": "1"}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=message):
        list(judge_lines(path, "math"))
    with pytest.raises(UserError, match="did you mean 'math'"):
        list(judge_lines(path, "maths"))


@full
def test_judge_lines_of_programs(tmp_path: Path) -> None:
    lines = [
        {"id": 1, "response": f"```python\n{ADD}```", "tests": list(TESTS)},
        {"id": 2, "response": "No idea.", "tests": "\n".join(TESTS)},
        {"id": 3, "response": 7, "tests": list(TESTS)},
        {"id": 4, "response": "print(input())", "tests": [{"input": "a", "output": "a"}], "timeout": 2},
    ]
    file = tmp_path / "answers.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    judged = [(line["id"], line["reward"], line["verdict"]) for line in judge_lines(file, "program")]
    assert judged == [(1, 1.0, "passed"), (2, 0.0, "unparsable"), (3, 0.0, "unparsable"), (4, 1.0, "passed")]


@pytest.mark.parametrize(
    ("tests", "message"),
    [
        ([], "list of assert statements"),
        ("x = 1", "assert nothing"),
        (["assert f("], "not Python"),
        ("def check(candidate):\n    assert candidate(1)", "need entry_point"),
        ([{"input": 1, "output": "2"}], "a pair looks like"),
    ],
)
def test_tests_that_are_none_are_refused(tmp_path: Path, tests: object, message: str) -> None:
    file = tmp_path / "answers.jsonl"
    file.write_text(json.dumps({"id": 1, "response": ADD, "tests": tests}))
    with pytest.raises(UserError, match=message):
        list(judge_lines(file, "program"))
