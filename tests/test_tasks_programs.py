"""The tasks with programs: what the prompts show, what the reward is for, and the reference programs."""

import dataclasses
import gzip
import json
import os

import pytest
from support.outside import find_data

from scorl import tasks
from scorl.cli import main
from scorl.errors import UserError
from scorl.recipe import json_schema
from scorl.sandbox.bubblewrap import detect_level
from scorl.tasks.coding import ProgramSettings
from scorl.tasks.plus import restore_types
from scorl.tasks.repairs import collect_wrong_programs
from scorl.trajectory import Response, Trajectory, Verdict

full = pytest.mark.skipif(not detect_level().full, reason=f"no full sandbox here: {detect_level().reason}")


def data(name):
    return str(find_data(name))


def row(number):
    return {
        "task_id": number,
        "text": f"Add {number} to a number.",
        "code": f"def add(a):\r\n    return a + {number}",
        "test_list": [f"assert add({k}) == {k + number}" for k in (1, 2, 3)],
        "test_setup_code": "",
        "challenge_test_list": [],
    }


@pytest.fixture
def mbpp_file(tmp_path):
    file = tmp_path / "mbpp.jsonl.gz"
    with gzip.open(file, "wt") as handle:
        handle.writelines(json.dumps(row(number)) + "\n" for number in (2, 3, 4, 11, 510, 511, 600, 601, 974))
    return str(file)


def rewards(task, problem, *texts):
    return [verdict.reward for verdict in task.judge([(problem, f"```python\n{text}\n```") for text in texts])]


def test_mbpp_splits_as_published(mbpp_file):
    task = tasks.load("mbpp", path=mbpp_file)
    ids = {name: [problem.id for problem in split.take(None)] for name, split in task.splits.items()}
    assert ids == {
        "test": ["mbpp-11", "mbpp-510"],
        "validation": ["mbpp-511", "mbpp-600"],
        "train": ["mbpp-601", "mbpp-974"],
    }


def test_mbpp_shows_three_solved_problems_and_the_tests(mbpp_file):
    three, none = (tasks.load("mbpp", path=mbpp_file, shots=n).split("test").take(1)[0] for n in (3, 0))
    assert [message["role"] for message in three.prompt] == ["user", "assistant"] * 3 + ["user"]
    assert three.prompt[1]["content"] == "```python\ndef add(a):\n    return a + 2\n```"
    assert three.prompt[-1:] == none.prompt
    assert "Add 11 to a number." in none.prompt[0]["content"]
    assert none.prompt[0]["content"].count("assert add(") == 3
    assert none.solution == "```python\ndef add(a):\n    return a + 11\n```"


@full
def test_mbpp_rewards_the_tests_that_were_not_shown(mbpp_file):
    task = tasks.load("mbpp", path=mbpp_file, shots=0, shown_tests=1)
    problem = task.split("test").take(1)[0]
    assert problem.prompt[0]["content"].count("assert add(") == 1
    assert problem.answer.tests == ("assert add(2) == 13", "assert add(3) == 14")
    memorised = "def add(a):\n    return {1: 12}.get(a)"
    assert rewards(task, problem, "def add(a):\n    return a + 11", memorised) == [1.0, 0.0]


def test_mbpp_repair_carries_the_wrong_program(mbpp_file, tmp_path):
    attempts = tmp_path / "attempts.jsonl"
    attempts.write_text(json.dumps({"task_id": 11, "program": "def add(a): return a"}) + "\n")
    task = tasks.load("mbpp-repair", path=mbpp_file, attempts=str(attempts), shots=0)
    (problem,) = task.split("test").take(None)
    assert problem.first_attempt == "```python\ndef add(a): return a\n```"
    attempts.write_text(json.dumps({"task_id": 12, "program": ""}) + "\n")
    with pytest.raises(UserError, match="no problem 12"):
        tasks.load("mbpp-repair", path=mbpp_file, attempts=str(attempts))
    with pytest.raises(UserError, match="attempts="):
        tasks.load("mbpp-repair", path=mbpp_file)


def test_repairs_are_the_distinct_wrong_programs(mbpp_file, tmp_path):
    task = tasks.load("mbpp", path=mbpp_file, shots=0)
    problem = task.split("test").take(1)[0]
    answers = {
        "```python\ndef add(a): return a\n```": Verdict(0.0, "failed", "add(1) == 12"),
        "Perhaps\n\ndef add(a): return a\n": Verdict(0.0, "failed", "add(1) == 12"),
        "I cannot.": Verdict(0.0, "unparsable", ""),
        "```python\ndef add(a): return a + 11\n```": Verdict(1.0, "passed", ""),
        "```python\ndef add(a): return b\n```": Verdict(0.0, "error", "NameError"),
    }
    group = [
        Trajectory(problem, k, (Response((1,), (2,), (0.0,), text, "stop", verdict),))
        for k, (text, verdict) in enumerate(answers.items())
    ]
    lines, fates = collect_wrong_programs([group])
    assert [(line["task_id"], line["program"].strip(), line["verdict"]) for line in lines] == [
        (11, "def add(a): return a", "failed"),
        (11, "def add(a): return b", "error"),
    ]
    assert fates == {"kept": 2, "repeated": 1, "without a program": 1, "right": 1}
    attempts = tmp_path / "attempts.jsonl"
    attempts.write_text("".join(json.dumps(line) + "\n" for line in lines))
    repaired = tasks.load("mbpp-repair", path=mbpp_file, attempts=str(attempts), shots=0).split("test").take(None)
    assert [p.first_attempt for p in repaired] == [f"```python\n{line['program'].strip()}\n```" for line in lines]


@full
def test_the_command_writes_a_file_of_repairs(mbpp_file, tmp_path, capsys):
    out = tmp_path / "wrong.jsonl"
    asked = ["collect-repairs", "scorl:countdown-base", f"path={mbpp_file}", "shots=0", "--max-tokens=8", "--samples=2"]
    with pytest.raises(SystemExit) as ended:
        main([*asked, "--out", str(out)])
    assert ended.value.code == 0
    assert len(out.read_text().splitlines()) <= 2
    assert "wrong programs for" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main([*asked, "--out", str(tmp_path / "no" / "wrong.jsonl")])
    assert ended.value.code == 2


@full
def test_the_command_takes_any_engine(mbpp_file, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("scorl.model.policy.Policy.__init__", None)  # canned answers need no weights
    (tmp_path / "answers.jsonl").write_text('{"prompt_contains": "", "response": "no"}\n')
    settings = ["--engine=scripted", f"engine.answers={tmp_path / 'answers.jsonl'}", f"path={mbpp_file}", "shots=0"]
    with pytest.raises(SystemExit) as ended:
        main(["collect-repairs", "scorl:countdown-base", *settings, "--out", str(tmp_path / "wrong.jsonl")])
    assert ended.value.code == 0
    assert "0 wrong programs for 0 of 2 problems (0 kept, 0 right, 8 without a program" in capsys.readouterr().err


def test_repairs_are_read_from_evalplus_samples_too(mbpp_file, tmp_path):
    attempts = tmp_path / "samples.jsonl"
    attempts.write_text(json.dumps({"task_id": "Mbpp/11", "solution": "def add(a): return a"}) + "\n")
    (problem,) = tasks.load("mbpp-repair", path=mbpp_file, attempts=str(attempts)).split("test").take(None)
    assert problem.first_attempt == "```python\ndef add(a): return a\n```"


@pytest.mark.parametrize("settings", [{"sandbox": "no"}, {"timeout": 0}, {"prompt": "{question}"}])
def test_settings_are_checked(mbpp_file, settings):
    with pytest.raises(UserError, match="mbpp"):
        tasks.load("mbpp", path=mbpp_file, **settings)


def test_every_setting_of_a_task_says_what_it_is():
    schema = json_schema()["$defs"]
    kinds = {kind for kind, _ in tasks.TASKS.values()}
    for kind in kinds:
        keys = schema[kind.__name__]["properties"]
        assert [f.name for f in dataclasses.fields(kind) if not keys[f.name].get("description")] == []
    assert sum(kind.__bases__ == (ProgramSettings,) for kind in kinds) == 7


@pytest.fixture
def humaneval_file(tmp_path):
    prompt = (
        "from typing import List\n\ndef helper(x: int):\n    return x + 1\n\n\n"
        'def solve(xs: List[int]) -> int:\n    """ The sum of the helpers. """\n'
    )
    file = tmp_path / "HumanEval.jsonl"
    line = {
        "task_id": "HumanEval/0",
        "prompt": prompt,
        "entry_point": "solve",
        "canonical_solution": "    return sum(map(helper, xs))\n",
        "test": "def check(candidate):\n    assert candidate([1]) == helper(1)\n    assert candidate([]) == 0\n",
        "base_input": [[[1]], [[]]],
        "plus_input": [[[1, 2]]],
        "atol": 0,
    }
    file.write_text(json.dumps(line) + "\n")
    return str(file)


@full
@pytest.mark.parametrize("name", ["humaneval", "humaneval+"])
def test_humaneval_takes_whole_functions_and_bodies(humaneval_file, name):
    task = tasks.load(name, path=humaneval_file)
    (problem,) = task.split("test").take(None)
    whole = "def solve(xs: List[int]):\n    return sum(x + 1 for x in xs)"
    forged = "def helper(x):\n    return 0\ndef solve(xs):\n    return 0"
    answers = [problem.solution, whole, "    return sum(map(helper, xs))", forged]
    assert [verdict.reward for verdict in task.judge([(problem, text) for text in answers])] == [1.0, 1.0, 1.0, 0.0]


def test_what_json_cannot_hold_is_restored():
    assert restore_types(2, [[1, 2], [3]]) == [(1, 2), (3,)]
    assert restore_types(63, [[[1, 2], [3, 4]]]) == [[(1, 2), (3, 4)]]
    assert restore_types(446, [[1, [2]], [1]]) == [(1, [2]), [1]]
    assert restore_types(580, [[1, [2, [3]]]]) == [(1, (2, (3,)))]
    assert restore_types(124, ["1", "2j"]) == [1.0, 2j]
    assert restore_types(1, [[1]]) == [[1]]


@full
def test_programs_of_ones_own(tmp_path):
    file = tmp_path / "own.jsonl"
    lines = [
        {"prompt": f"Add {n}.", "tests": [f"assert add(1) == {1 + n}"], "solution": f"def add(a):\n    return a + {n}"}
        for n in range(9)
    ] + [{"prompt": "Echo.", "tests": [{"input": "a", "output": "a"}], "solution": "print(input())"}]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    task = tasks.load("programs", path=str(file), test_fraction=0.2)
    train, test = (task.split(name).take(None) for name in ("train", "test"))
    assert (len(train), len(test)) == (8, 2)
    verdicts = task.judge([(problem, problem.solution) for problem in [*train, *test]])
    assert {verdict.outcome for verdict in verdicts} == {"passed"}


@full
@pytest.mark.parametrize(
    ("name", "file", "settings"),
    [
        ("humaneval", "humaneval/HumanEval.jsonl.gz", {}),
        ("mbpp", "mbpp/mbpp.jsonl", {"shots": 0}),
        ("mbpp", "mbpp/sanitized-mbpp.json", {"shots": 3}),
    ],
)
def test_a_sample_of_the_reference_programs_passes(name, file, settings):
    task = tasks.load(name, path=data(file), **settings)
    problems = [problem for split in task.splits.values() for problem in split.take(None)]
    odd = {"HumanEval/32", "HumanEval/33", "HumanEval/38", "HumanEval/50"}
    odd |= {f"mbpp-{number}" for number in (126, 367, 533, 596, 601, 927)}
    chosen = [problem for index, problem in enumerate(problems) if index % 40 == 0 or problem.id in odd]
    verdicts = task.judge([(problem, problem.solution) for problem in chosen])
    assert [(p.id, v) for p, v in zip(chosen, verdicts, strict=True) if not v.reward] == []


@full
@pytest.mark.skipif("SCORL_SLOW" not in os.environ, reason="minutes; SCORL_SLOW=1 runs it")
@pytest.mark.parametrize(
    ("name", "file", "settings"),
    [("humaneval", "humaneval/HumanEval.jsonl.gz", {}), ("mbpp", "mbpp/mbpp.jsonl", {"shots": 0})],
)
def test_every_reference_program_passes(name, file, settings):
    task = tasks.load(name, path=data(file), timeout=30.0, **settings)
    problems = [problem for split in task.splits.values() for problem in split.take(None)]
    verdicts = task.judge([(problem, problem.solution) for problem in problems])
    assert [(p.id, v) for p, v in zip(problems, verdicts, strict=True) if not v.reward] == []
