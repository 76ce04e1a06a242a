"""The tasks for lm-eval read what scorl writes, and judge as scorl does; neither lm-eval nor evalplus is needed."""

import ast
import json
import re
import runpy
from pathlib import Path

import pytest
import yaml

from scorl.run.files import response_records
from scorl.tasks import load
from scorl.trajectory import Response, Trajectory

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "examples" / "lm-eval"
TASKS = runpy.run_path(FOLDER / "scorl_tasks.py")


class Loader(yaml.SafeLoader):
    """YAML with lm-eval's way of naming functions."""


Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))


def lines(task, texts):
    """What an evaluation writes of two attempts with these texts."""
    (problem,) = task.split("test").take(1)
    first, second = (
        Response((1,), (2,), (0.0,), text, "stop", verdict)
        for text, verdict in zip(texts, task.judge([(problem, t) for t in texts]), strict=True)
    )
    return json.loads(json.dumps(response_records(0, Trajectory(problem, 0, (first, second)))))


def test_countdown_is_judged_as_in_scorl():
    task = load("countdown")
    (problem,) = task.split("test").take(1)
    right, _ = lines(task, (problem.solution, "1+1=3"))
    assert ast.literal_eval(right["gold"]) == problem.answer
    judged = TASKS["judge_countdown"](right, [problem.solution])
    assert judged == {"accuracy_t1": 1.0, "scorl_accuracy_t1": 1.0, "same_text": True}
    assert TASKS["judge_countdown"](right, ["1+1=3"]) == {
        "accuracy_t1": 0.0,
        "scorl_accuracy_t1": 1.0,
        "same_text": False,
    }


def test_mathematics_is_judged_as_in_scorl():
    pytest.importorskip("math_verify")
    line, _ = lines(load("word-problems"), ("The answer is -1.", "The answer is -2."))
    assert TASKS["judge_math"](line, [f"The answer is {line['gold']}."])["accuracy_t1"] == 1.0
    assert TASKS["judge_math"](line, ["The answer is -1."]) == {
        "accuracy_t1": 0.0,
        "scorl_accuracy_t1": 0.0,
        "same_text": True,
    }


def test_the_first_attempts_are_asked_once():
    class Lines(list):
        def filter(self, wanted):
            return list(filter(wanted, self))

    given = Lines([{"turn": 0, "sample": 0}, {"turn": 1, "sample": 0}, {"turn": 0, "sample": 1}])
    assert TASKS["first_attempts"](given) == [given[0]]


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_tasks_name_functions_and_figures_that_there_are(path):
    task = yaml.load(path.read_text(), Loader=Loader)
    assert task["task"] == path.stem
    for key in ("process_docs", "process_results"):
        module, name = task[key].split(".")
        assert (module, callable(TASKS[name])) == ("scorl_tasks", True)
    assert [metric["metric"] for metric in task["metric_list"]] == ["accuracy_t1", "scorl_accuracy_t1", "same_text"]
    assert task["generation_kwargs"]["until"] == []
    assert path.stem in (ROOT / "docs" / "harnesses.md").read_text()


def test_evalplus_reads_the_programs_that_scorl_found(tmp_path):
    page = (ROOT / "docs" / "harnesses.md").read_text()
    code = re.search(r'^```python title="to_evalplus.py"\n(.*?)^```$', page, re.MULTILINE | re.DOTALL)[1]
    names = {"__name__": "document"}
    exec(compile(code, "to_evalplus.py", "exec"), names)
    attempts = [
        {"turn": 0, "problem": "HumanEval/0", "answer": "x = 1"},
        {"turn": 1, "problem": "HumanEval/0", "answer": None},
    ]
    (tmp_path / "attempts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in attempts))
    assert json.loads(names["to_evalplus"](tmp_path / "attempts.jsonl")) == {
        "task_id": "HumanEval/0",
        "solution": "x = 1",
    }
    assert json.loads(names["to_evalplus"](tmp_path / "attempts.jsonl", 1)) == {
        "task_id": "HumanEval/0",
        "solution": "",
    }
